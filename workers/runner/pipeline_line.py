# SPDX-License-Identifier: Apache-2.0
"""All stages at once: a thread for each worker, bounded queues between them. The device is the calling thread's.

Pillow and numpy let go of the interpreter for most of what they do, so threads are enough to overlap.
"""

import threading
from array import array
from typing import Any, Callable, Dict, List, Optional, Tuple

from farm.contract.pipeline import PipelineSpec
from workers.runner.channel import Channel, Closed, Waited
from workers.runner.measure import now_ns
from workers.runner.pipeline_stages import Spans, Stages


class Trace:
    """What went through a line: `numbers`, `done_ns` and the best class of each image, in the order in which they were
    done; `batch_done_ns` and `batch_counts` of each batch."""

    def __init__(self) -> None:
        self.spans = Spans()
        self.channels: List[Channel] = []
        self.numbers, self.done_ns, self.best = (array("q") for _ in range(3))
        self.batch_done_ns, self.batch_counts = array("q"), array("q")


class Line:
    """One pass of a line of workers; it is used once.

    Args:
        stages: what the workers do.
        spec: how many threads, how deep the queues.
        max_wait_ns: a batch is closed so long after its first image was ready; None: only when it is full.
    """

    def __init__(self, stages: Stages, spec: PipelineSpec, max_wait_ns: Optional[int] = None) -> None:
        self._stages = stages
        self._spec = spec
        self._max_wait_ns = max_wait_ns
        self.trace = Trace()
        images = spec.queue_depth * stages.batch_size
        # Batches that are closed before the device is free are smaller than they need be.
        batches = spec.queue_depth if max_wait_ns is None else 1
        self._pictures, self._ready, self._batches, self._scores = self.trace.channels = [
            Channel("preprocess", images, now_ns),
            Channel("collate", images, now_ns),
            Channel("device", batches, now_ns),
            Channel("postprocess", spec.queue_depth, now_ns),
        ]
        self._errors: List[BaseException] = []
        self._source: Any = None
        self._left: Dict[str, int] = {}
        self._lock = threading.Lock()

    def run(self, source: Any, give_up_ns: Optional[int] = None) -> Trace:
        """Take images from `source` until it has no more, and bring them to their end, or to `give_up_ns`.

        Raises:
            whatever a stage raises, once all threads have ended.
        """
        self._source = source
        spec = self._spec
        threads = [
            *self._start("decode", spec.decode_workers, self._decode, self._pictures),
            *self._start("preprocess", spec.preprocess_workers, self._preprocess, self._ready),
            *self._start("collate", 1, self._collate, self._batches),
            *self._start("postprocess", 1, self._postprocess, None),
        ]
        try:
            self._device(give_up_ns)
        except Closed:
            self._scores.close()
        except BaseException:
            self._abandon()
            raise
        finally:
            for thread in threads:
                thread.join()
        if self._errors:
            raise self._errors[0]
        return self.trace

    def _start(
        self, name: str, count: int, body: Callable[[], None], after: Optional[Channel]
    ) -> List[threading.Thread]:
        self._left[name] = count

        def work() -> None:
            try:
                body()
            except Closed:
                pass
            except BaseException as error:  # noqa: BLE001 - it is raised again by `run`, in its own thread
                self._errors.append(error)
                self._abandon()
            with self._lock:
                self._left[name] -= 1
                last = not self._left[name]
            if last and after is not None:
                after.close()

        threads = [threading.Thread(target=work, name="pipeline-" + name, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        return threads

    def _abandon(self) -> None:
        """Let every worker end at once, whatever it has before it."""
        self._source.stop()
        for channel in self.trace.channels:
            channel.close(discard=True)

    def _decode(self) -> None:
        while True:
            due = self._source.take()
            if due is None:
                return
            self._pictures.put((due, self.trace.spans.timed("decode", self._stages.decode, due[0])))

    def _preprocess(self) -> None:
        while True:
            due, picture = self._pictures.get()
            image = self.trace.spans.timed("preprocess", self._stages.preprocess, picture)
            self._ready.put((due, image, now_ns()))

    def _collate(self) -> None:
        while True:
            gathered, ended = self._gather()
            batch = self.trace.spans.timed("collate", self._stages.collate, [image for _, image, _ in gathered])
            self._batches.put(([due for due, _, _ in gathered], batch))
            if ended:
                return

    def _gather(self) -> Tuple[List[Any], bool]:
        """The images of one batch, one at least, and whether they are the last.

        A batch that has waited long enough still waits for the device: until then it can only become fuller.
        """
        gathered, wanted = [self._ready.get()], False
        until = None if self._max_wait_ns is None else gathered[0][2] + self._max_wait_ns
        while len(gathered) < self._stages.batch_size:
            try:
                gathered.append(self._ready.get(until))
            except Waited:
                if wanted:
                    break
                self._batches.await_taker()
                until, wanted = now_ns(), True
            except Closed:
                return gathered, True
        return gathered, False

    def _device(self, give_up_ns: Optional[int]) -> None:
        while True:
            try:
                dues, batch = self._batches.get(give_up_ns)
            except Waited:
                self._abandon()
                return
            self._scores.put((dues, self._stages.device(self.trace.spans, batch)))
            if give_up_ns is not None and now_ns() >= give_up_ns:
                self._abandon()
                return

    def _postprocess(self) -> None:
        trace = self.trace
        while True:
            dues, scores = self._scores.get()
            classes, _ = trace.spans.timed("postprocess", self._stages.postprocess, scores, len(dues))
            done = now_ns()
            for (number, _), best in zip(dues, classes[:, 0].tolist()):
                trace.numbers.append(number)
                trace.done_ns.append(done)
                trace.best.append(best)
            trace.batch_counts.append(len(dues))
            trace.batch_done_ns.append(done)
