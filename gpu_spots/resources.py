"""Resources: what computes a run, and how much memory and disk it may use."""

from dataclasses import dataclass, field

from gpu_spots.backend import Backend
from gpu_spots.memory.plan import ResourceLimits
from gpu_spots.protocols import OpenSpool


@dataclass(frozen=True, slots=True)
class Resources:
    """Backend, memory and disk of a run."""

    backend: Backend
    """Backend that computes, with its devices and threads."""
    limits: ResourceLimits = field(default_factory=ResourceLimits)
    """Limits that the plan keeps."""
    open_spool: OpenSpool | None = None
    """Opens a scratch file; None: no scratch file is written."""
