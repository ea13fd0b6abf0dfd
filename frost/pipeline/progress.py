"""Lines that tell how far a stage is: where no terminal shows its bar, in logs and in those of queued experiments."""

import sys
import time

EVERY = 30.0  # seconds between two lines of a stage that goes from volume to volume


def tell(line: str) -> None:
    """A line on stderr at once, past the bar where there is one."""
    from tqdm import tqdm  # here: a stage that tells nothing needs none

    with tqdm.external_write_mode(file=sys.stderr):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


class Progress:
    """Tells, at most every `EVERY` seconds and never to a terminal, how many volumes are done, and which was last."""

    def __init__(self, stage: str, total: int) -> None:
        self.stage, self.total, self.done = stage, total, 0
        self._began = self._told = time.monotonic()

    def update(self, name: str) -> None:
        """One more volume is done."""
        self.done += 1
        now = time.monotonic()
        if sys.stderr.isatty() or (now - self._told < EVERY and self.done < self.total):
            return
        self._told = now
        rate = self.done / max(now - self._began, 1e-9)
        tell(
            f"{self.stage}: {self.done} of {self.total} volumes, {_rate(rate, 'volumes')}, "
            f"{duration((self.total - self.done) / rate)} left, last {name}"
        )


def _rate(per_second: float, unit: str) -> str:
    return f"{per_second:.1f} {unit} a second" if per_second >= 1 else f"{60 * per_second:.1f} {unit} a minute"


def duration(seconds: float) -> str:
    """As people write it: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
