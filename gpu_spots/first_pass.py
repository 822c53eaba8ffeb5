"""First pass: band by band of rows, the background of every pixel is learnt from all frames."""

from dataclasses import replace

from gpu_spots.backend import Prepared
from gpu_spots.background.complete import complete, with_correlation
from gpu_spots.background.maps import BackgroundMaps
from gpu_spots.background.methods import Method
from gpu_spots.memory.needs import spans
from gpu_spots.memory.source import Source
from gpu_spots.memory.workers import Span, in_halves, with_retry
from gpu_spots.model import Background, Frames, Masks
from gpu_spots.protocols import Observer


def compute_background(
    source: Source[Frames, Masks, Prepared], method: Method, cutoff: float, observer: Observer
) -> Background:
    """Learn the background band by band; ``cutoff`` goes into the threshold."""
    n_frames, n_rows, n_columns = source.shape
    backend = source.backend
    held = with_retry(
        lambda: backend.allocate_background(source.shape, source.dtype, method), backend.release
    )
    maps = BackgroundMaps(
        (n_rows, n_columns),
        source.dtype,
        cutoff,
        method.varies,
        held,
        levelled=not method.scales_frames,
    )
    validity = source.scaled_validity

    def learn_rows(begin: int, end: int) -> None:
        if backend.background(
            source.band(begin, end),
            method.below(begin),
            validity.rows(begin, end),
            maps.rows(begin, end),
        ):
            maps.gaps = True

    def learn_band(band: Span) -> int:
        in_halves(learn_rows, band, backend.release)
        return band[1] - band[0]

    observer.stage("background", n_rows, "rows")
    for n_done in source.in_order(learn_band, spans(n_rows, source.plan.band_rows)):
        observer.advance(n_done)
    learnt = replace(
        maps.finish(validity, has_mean=method.scales_frames),
        n_sampled=method.n_sampled(n_frames),
        constant_part=source.constant_part,
    )
    background = complete(learnt, *maps.samples, method, n_frames, cutoff, source.workers)
    return with_correlation(background, source.sampler, method, n_frames)
