"""Reports of runs: one page that anybody can open, and its numbers as JSON.

`facts` reads what is known of a run, `verdict` says what is wrong with it, `sections` makes charts,
pictures and tables, and `write` makes the page of them.
"""
