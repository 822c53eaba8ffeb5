"""The background of every pixel: the methods that choose its sample, and the maps made from it."""
