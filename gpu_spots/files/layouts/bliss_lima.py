"""Layouts of the ESRF: BLISS has one group per scan, Lima one entry per acquisition."""

from gpu_spots.files.layouts.nexus import BLISS_SCAN, Nexus

BLISS = Nexus(
    name="BLISS",
    title="ESRF BLISS",
    frames="`1.1/measurement/DETECTOR`, `1.1/instrument/DETECTOR/data`",
    paths=(rf"{BLISS_SCAN}/measurement/.*", rf"{BLISS_SCAN}/instrument/.*/(data|image)"),
    other_paths=(rf"{BLISS_SCAN}/instrument/.*",),
)
LIMA = Nexus(
    name="Lima",
    title="Lima",
    frames="`/entry_0000/measurement/data`",
    paths=(r"entry_\d+/measurement/data", r"entry_\d+/instrument/.*/data"),
    other_paths=(r"entry_\d+/(measurement|instrument|plot)/.*",),
)
