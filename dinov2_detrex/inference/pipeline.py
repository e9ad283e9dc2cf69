"""How is a model kept busy? Threads prepare the next inputs while it runs, and inputs of one shape go in together."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

Input = dict[str, Any]  # a record with "image" (C, H, W), as a mapper gives it


@dataclass
class Job:
    """A picture on its way: its inputs (several where it is cut into tiles), and their outputs as they come.

    Attributes:
        picture: what it was made of, for the caller.
        inputs: of the model.
        outputs: of the model, one for each input, None as long as it is due.
        error: what kept the picture from being prepared; then there are no inputs.
    """

    picture: Any
    inputs: list[Input] = field(default_factory=list)
    error: Exception | None = None
    outputs: list[Any] = field(default_factory=list)

    def __post_init__(self):
        self.outputs = [None] * len(self.inputs)

    @property
    def pending(self) -> list[int]:
        return [i for i, output in enumerate(self.outputs) if output is None]


def answered(
    pictures: Iterable[Any],
    prepare: Callable[[Any], Job],
    model: Callable[[list[Input]], list[Any]],
    batch_size: int,
    window: int,
    num_threads: int,
) -> Iterator[Job]:
    """The pictures with their outputs, in order. Which inputs go in together does not depend on time.

    Args:
        pictures: read as they are needed, in this thread.
        prepare: from a picture to its job, called in the threads; must not raise what the caller can go on from.
        model: from up to `batch_size` inputs of one shape to their outputs, called in this thread.
        batch_size: inputs in a call.
        window: pictures among which inputs of one shape are looked for; so many are read before the first answer.
        num_threads: that prepare, and pictures that are prepared beyond the window.
    """
    pictures, queued, ready = iter(pictures), deque[Future[Job]](), deque[Job]()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="prepare")
    try:
        while True:
            for picture in islice(pictures, window + num_threads - len(ready) - len(queued)):
                queued.append(pool.submit(prepare, picture))
            while queued and len(ready) < window:
                ready.append(queued.popleft().result())
            if not ready:
                return
            while ready[0].pending:
                _run_batch(ready, model, batch_size)
            yield ready.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _run_batch(ready: deque[Job], model: Callable[[list[Input]], list[Any]], batch_size: int) -> None:
    """One call, for the oldest input that is due and others of its shape; a tensor that was used is let go."""
    first = ready[0]
    shape = first.inputs[first.pending[0]]["image"].shape
    places = ((job, i) for job in ready for i in job.pending if job.inputs[i]["image"].shape == shape)
    chosen = list(islice(places, batch_size))
    for (job, i), output in zip(chosen, model([job.inputs[i] for job, i in chosen])):
        job.outputs[i] = output
        del job.inputs[i]["image"]
