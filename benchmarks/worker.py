"""One path in a process of its own, so that its peak memory is its own; the parent says when to do a step."""

import contextlib
import io
import multiprocessing
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

from ..toolbox.dassl.errors import ExpectedError
from ..toolbox.dassl.utils import keep_freed_memory
from . import machine
from .cases import Case


class WorkerError(ExpectedError, RuntimeError):
    """A measuring process failed or was ended; the message says what is known."""


class Worker:
    """The parent's end of a measuring process.

    Args:
        case: what to measure; plain: the plain path instead of ours.
    """

    def __init__(self, case: Case, plain: bool = False):
        self.name = "the plain path" if plain else "our path"
        context = multiprocessing.get_context("spawn")  # a fresh interpreter: nothing of the parent in its memory
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, case, plain), daemon=True)
        self.process.start()
        theirs.close()

    def send(self, task: str) -> None:
        """Ask for something (see `Measured`) without waiting for it."""
        self.pipe.send(task)

    def receive(self) -> dict:
        """The answer to the last question.

        Raises:
            WorkerError: the process failed or is gone.
        """
        try:
            state, answer = self.pipe.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            cause = " (ended by signal 9, most likely for lack of memory)" if code == -9 else ""
            raise WorkerError(f"the process of {self.name} ended with exit code {code}{cause}") from None
        if state == "error":
            raise WorkerError(f"{self.name} failed:\n{answer}")
        return answer

    def ask(self, task: str) -> dict:
        """`send` and `receive`."""
        self.send(task)
        return self.receive()

    def close(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.join(10)
        self.process.kill()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(pipe: Connection, case: Case, plain: bool) -> None:
    """What the process runs: build the path, then answer until the parent closes the pipe."""
    machine.end_this_process_first()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            measured = Measured(case, plain)
            while True:
                pipe.send(("ok", getattr(measured, pipe.recv())()))
    except EOFError:
        return
    except Exception:
        with contextlib.suppress(OSError):
            pipe.send(("error", traceback.format_exc()))


class Measured:
    """One path of a case, built and ready; each method that the parent may name returns plain data."""

    def __init__(self, case: Case, plain: bool):
        import torch

        from .build import make_batch, make_trainer, prepare

        if case.threads:
            torch.set_num_threads(case.threads)
        if plain:
            from .plain import PLAIN
        else:
            keep_freed_memory()  # as train.py does; published code does not
        self.case = case
        self.trainer = make_trainer(case, PLAIN[case.method] if plain else None)
        if plain:  # published code leaves convolutions as they are; ours are changed when a backbone is loaded
            self.trainer.backbone.visual.to(memory_format=torch.contiguous_format)
        self.batch = make_batch(case, self.trainer.backbone.preprocess.size)
        prepare(self.trainer, case)
        if case.device == "cuda":
            torch.backends.cudnn.benchmark = True  # as in train.py
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            machine.reset_peak()
            self.before = machine.resident_bytes()

    # ---- what the parent may ask for

    def warm_up(self) -> dict:
        """One step (or batch), its floating-point operations counted, and how the prompts were laid out."""
        encoder = self.trainer.model.encoder
        slices: dict[int, int] = {}
        hook = encoder.register_forward_pre_hook(lambda _, inputs: slices.update({id(inputs[0]): inputs[0].rows}))
        if self.case.evaluate:
            self.forget_text()
            first, later = count_flops(self.infer), count_flops(self.infer)
            answer = {"flops_first": first, "flops": later}
        else:
            answer = {"flops": count_flops(self.train)}
        hook.remove()
        return answer | {"rows": sum(slices.values()), "slices": len(slices)} | self.memory()

    def step(self) -> dict:
        """One timed training step; or a timed first test batch (with the text it needs) and a later one."""
        if not self.case.evaluate:
            return self.timed(self.train) | self.memory()
        self.forget_text()
        first = self.timed(self.infer)
        return self.timed(self.infer) | {"first": first["seconds"]} | self.memory()

    def text(self) -> dict:
        """Our text path alone, timed, as often in training or evaluation as in a step."""
        return self.timed(self.text_alone)

    def text_flops(self) -> dict:
        """Floating-point operations of `text`."""
        return {"flops": count_flops(self.text_alone)}

    def processor(self) -> dict:
        """Torch's threads, and the GPU if there is one in play."""
        import torch

        gpu = torch.cuda.get_device_name() if self.case.device == "cuda" else None
        return {"threads": torch.get_num_threads(), "gpu": gpu}

    def matrix_peak(self) -> dict:
        """See `machine.matrix_peak`."""
        return machine.matrix_peak(self.case.prec, self.case.device, quick=self.case.backbone == "tiny")

    def profile(self) -> dict:
        """Which operations a step spends its time in: the twelve largest."""
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.case.device == "cuda")
        with profile(activities=kinds) as found:
            self.run()
        of = "self_device_time_total" if self.case.device == "cuda" else "self_cpu_time_total"
        events = found.key_averages()
        if self.case.device == "cuda":  # an operator's time is that of its kernels, which are listed too
            events = [event for event in events if event.device_type == DeviceType.CUDA]
        events = sorted(events, key=lambda event: -getattr(event, of))
        total = sum(getattr(event, of) for event in events) or 1
        rows = [
            {"name": e.key, "calls": e.count, "seconds": getattr(e, of) / 1e6, "share": getattr(e, of) / total}
            for e in events[:12]
        ]
        return {"operations": rows}

    # ---- how

    def run(self) -> None:
        """A step, or a first test batch."""
        if self.case.evaluate:
            self.forget_text()
            return self.infer()
        self.train()

    def train(self) -> None:
        """The trainer's own step."""
        self.trainer.forward_backward(self.batch)

    def infer(self) -> None:
        """The trainer's own test batch."""
        import torch

        with torch.no_grad():
            self.trainer.model_inference(self.trainer.parse_batch_test(self.batch)[0])

    def forget_text(self) -> None:
        """Touch the trained parameters, so that kept text features are made anew."""
        import torch

        with torch.no_grad():
            for parameter in self.trainer.model.parameters():
                parameter.add_(0)

    def text_alone(self) -> None:
        """Text features; in training also their backward pass."""
        import torch

        from .build import text_features

        with torch.set_grad_enabled(not self.case.evaluate):
            features = text_features(self.trainer, self.case)
        if not self.case.evaluate:
            features.backward(torch.ones_like(features))
            self.trainer.optim.zero_grad()

    def timed(self, run: Callable[[], None]) -> dict:
        """Seconds of a run, and processor seconds per thread and second (near 1: nothing else got in the way)."""
        import torch

        machine.synchronize(self.case.device)
        start, busy = time.perf_counter(), time.process_time()
        run()
        machine.synchronize(self.case.device)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "busy": (time.process_time() - busy) / seconds / torch.get_num_threads()}

    def memory(self) -> dict:
        """Bytes held before the first step, and at the peak since."""
        if self.case.device == "cuda":
            import torch

            return {"before": self.before, "peak": torch.cuda.max_memory_allocated()}
        return {"before": self.before, "peak": machine.peak_bytes()}


def count_flops(run: Callable[[], None]) -> int:
    """Floating-point operations of a run: those of matrix products, convolutions and attention, as executed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    aten = torch.ops.aten
    own = {
        aten._native_multi_head_attention: _fused_attention_flops,
        # A CPU's attention: some versions of torch (2.14) count nothing of it.
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    }
    counter = FlopCounterMode(display=False, custom_mapping=own)
    counter.mod_tracker = _Untracked()
    with counter:
        run()
    return counter.get_total_flops()


class _Untracked(contextlib.nullcontext):
    """Instead of torch's tracker of modules, whose hooks keep every slice's graph until the counting ends."""

    parents = frozenset({"Global"})


def _fused_attention_flops(query: tuple, key: tuple, *_: object, out_shape: object = None, **__: object) -> int:
    """Attention with its projections, as torch fuses it without gradient: torch itself does not count it."""
    (batch, rows, width), keys = query, key[1]
    return 2 * batch * (rows * width * 4 * width + 2 * rows * keys * width)


def _attention_flops(query: tuple, key: tuple, value: tuple, *_: object, **__: object) -> int:
    """Scores and their use, [B, H, L, D] each."""
    from torch.utils.flop_counter import sdpa_flop_count

    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(grad: tuple, query: tuple, key: tuple, value: tuple, *_: object, **__: object) -> int:
    """The scores once more, and the gradients of values, scores, queries and keys."""
    from torch.utils.flop_counter import sdpa_backward_flop_count

    return sdpa_backward_flop_count(grad, query, key, value)
