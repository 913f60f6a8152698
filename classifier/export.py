"""A trained classifier as one file for programs without this package: ONNX, TorchScript, or the class features alone.

The file goes from prepared images to answers, with class features and router inside; the text tower is in it only where
every image changes its prompts (CoCoOp). What was written is run and compared with the model before it is put in place.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn

from ..toolbox.dassl.errors import MissingPackage, WrongValue, optional
from ..toolbox.dassl.utils import atomic_write
from ..trainers.model import PromptModel
from .images import Images, Reader
from .labels import as_known, labelled, positions

if TYPE_CHECKING:
    import onnx

    from .classifier import Classifier

KEY = "mocoop"  # of the metadata
OUTPUTS = ("features", "logits", "probabilities", "expert_weights")  # the last one of methods with a router
TOLERANCE = 1e-4  # absolute, and relative where numbers are above 1
MOST_BYTES = 2**31  # of an ONNX file
PRECISIONS = ("fp32", "fp16", "int8")
LEAST_TORCH = (2, 6)  # whose exporter knows all that towers are made of


# ---- what is exported
# --------------------------------------------------------------------------------------------------------


class Exported(nn.Module):
    """From prepared images to all that a file gives: what a classifier does, in steps that can be written down.

    Args:
        model: trained, on the CPU, with C classes; it is not changed. temperature: that logits are divided by.
    """

    def __init__(self, model: PromptModel, temperature: float):
        super().__init__()
        model = copy.copy(model)
        model.precision = "fp32"
        self.clip = model.backbone.model  # known as parameters, so that they are written once
        self.register_buffer("class_features", model.kept_class_features())
        if self.class_features is not None:  # no tracer could follow how the model finds out whether they are stale
            model.class_features = lambda: self.class_features
        self.model, self.open_logits, self.temperature = model, model.open_logits(), temperature

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Prepared images [B, 3, S, S] -> features [B, D], logits [B, C], probabilities [B, C], expert weights [B, G].

        Logits are not divided by the temperature, probabilities are of logits that are. The last only with a router.
        """
        features = self.model.encode_image(image)
        logits = self.open_logits(features)
        found = (features, logits, (logits / self.temperature).softmax(dim=1))
        return (*found, self.model.route(features)[1]) if hasattr(self.model, "route") else found


def exported(clf: Classifier) -> Exported:
    """A classifier's model, ready to be written.

    Raises:
        WrongValue: it is not trained, or not on the CPU.
    """
    if clf.model.device.type != "cpu":
        raise WrongValue(f'expected a classifier on the CPU, found it on {clf.model.device}: load(..., device="cpu")')
    with torch.no_grad():
        return Exported(clf.model, clf.temperature_).eval()


def about(clf: Classifier) -> dict[str, object]:
    """What a program must know to use a file, as plain data."""
    from .. import __version__

    look = clf.model.backbone.preprocess
    experts = {"experts": [group[0] for group in clf.model.groups]} if hasattr(clf.model, "route") else {}
    return {
        "labels": clf.classes_.tolist(),
        "size": look.size,
        "mean": list(look.mean),
        "std": list(look.std),
        "interpolation": look.interpolation,
        "temperature": clf.temperature_,
        "threshold": clf.threshold_,
        "method": clf.model.method,
        "backbone": clf.model.backbone.name,
        **experts,
        "versions": {"mocoop": __version__, "torch": torch.__version__},
    }


@contextmanager
def new_file(path: Path, overwrite: bool) -> Iterator[str]:
    """`atomic_write`, but an existing file stays unless it may be replaced.

    Raises:
        FileExistsError: there is one.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; give another name, or overwrite")
    with atomic_write(path) as temporary:
        yield temporary


def check_equal(run: Callable[[Tensor], Sequence], module: Exported, exact: bool, what: str) -> None:
    """Compare a file's answers with the model's, on noise, for batches of two sizes.

    Args:
        run: images [B, 3, S, S] -> the outputs; module: what was written.
        exact: within TOLERANCE; else (smaller numbers) they need only be finite.
        what: was written, for the message.

    Raises:
        WrongValue: they differ.
    """
    random, size = torch.Generator().manual_seed(0), module.model.backbone.preprocess.size
    for count in (1, 3):
        images = torch.randn(count, 3, size, size, generator=random)
        with torch.no_grad():
            expected = module(images)
        for name, ours, found in zip(OUTPUTS, expected, run(images), strict=False):
            found = torch.as_tensor(found)
            far = float(((found - ours).abs() / ours.abs().clamp(min=1)).max()) if found.shape == ours.shape else np.inf
            if not (far <= TOLERANCE if exact else np.isfinite(far)):
                raise WrongValue(
                    f"{what} gives other {name} than torch for a batch of {count} (difference {far:.2g}, expected at "
                    f"most {TOLERANCE}): nothing was written; export as another format, and report this"
                )


# ---- ONNX
# --------------------------------------------------------------------------------------------------------------------


def write_onnx(
    clf: Classifier, path: str | Path, precision: str = "fp32", overwrite: bool = False, images: Images | None = None
) -> str:
    """Write an ONNX file: `image` [batch, 3, S, S] -> OUTPUTS; its metadata hold `about` as JSON.

    Args:
        clf: trained, on the CPU; path: of the file.
        precision: fp32; fp16 (half the size) or int8 (a quarter, and faster): of the image tower, the rest is fp32's.
        overwrite: replace an existing file.
        images: a folder of class folders; what the file answers on it is measured beside torch.

    Returns:
        What was measured, as a table ("" without images).

    Raises:
        MissingPackage: the extra `export` is not installed; FileExistsError: there is a file.
        WrongValue: the model cannot be written as ONNX, or the file does not answer as the model does.
        OSError: it cannot be written.
    """
    optional("onnxscript", "export")
    optional("onnxruntime", "export")
    if precision not in PRECISIONS:
        raise WrongValue(f"precision: expected one of {', '.join(PRECISIONS)}, found {precision!r}")
    path, module = Path(path), exported(clf)
    with new_file(path, overwrite) as temporary:
        smaller = {"fp32": lambda graph: graph, "fp16": to_fp16, "int8": to_int8}[precision](to_onnx(module))
        describe(smaller, about(clf) | {"precision": precision})
        save_onnx(smaller, temporary)
        session = open_session(temporary)
        check_equal(lambda x: session.run(None, {"image": x.numpy()}), module, precision == "fp32", "the ONNX file")
        return "" if images is None else measure(clf, session, images, f"ONNX {precision}")


def torch_writes_onnx() -> bool:
    """Whether the installed torch is new enough."""
    return tuple(map(int, torch.__version__.split(".")[:2])) >= LEAST_TORCH


def to_onnx(module: Exported) -> onnx.ModelProto:
    """The graph of a model, in float32, for any number of images.

    Raises:
        WrongValue: it cannot be written as ONNX.
        MissingPackage: torch is too old.
    """
    if not torch_writes_onnx():
        least = ".".join(map(str, LEAST_TORCH))
        raise MissingPackage(f"ONNX needs torch {least} or later, found {torch.__version__}: export as torchscript")
    tower = module.clip.visual if module.class_features is not None else module.clip
    if (size := 4 * sum(p.numel() for p in tower.parameters())) > 0.95 * MOST_BYTES:
        raise WrongValue(
            f"{module.model.backbone.name} has {size / 1e9:.1f} GB of weights, more than the 2 GB that one ONNX file "
            "holds: export as torchscript"
        )
    size = module.model.backbone.preprocess.size
    names = OUTPUTS if hasattr(module.model, "route") else OUTPUTS[:-1]
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (torch.zeros(2, 3, size, size),),
                dynamo=True,
                dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
                input_names=["image"],
                output_names=names,
                verbose=False,
            )
    except Exception as error:  # torch has many ways to say what its exporter does not know
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise WrongValue(f"{module.model.method} on {module.model.backbone.name} is not for ONNX: {reason}") from error
    return program.model_proto


def head_nodes(graph: onnx.ModelProto) -> list[str]:
    """Names of all nodes behind `features`: scores and router, whose numbers stay exact."""
    known, found = {"features"}, []
    for node in graph.graph.node:  # in order of computation
        if known & set(node.input):
            known |= set(node.output)
            found.append(node.name)
    return found


def to_fp16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The image tower in half precision; input and outputs stay float32."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    blocked = [*DEFAULT_OP_BLOCK_LIST, "ReduceL2"]  # a sum of squares may be larger than half precision goes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers that round to zero
        return convert_float_to_float16(
            graph, keep_io_types=True, op_block_list=blocked, node_block_list=head_nodes(graph)
        )


def to_int8(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The matrix products of the image tower in whole numbers of 8 bits, scales of activations found as it runs."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:  # it writes to a path only
        out, before = f"{folder}/int8.onnx", logging.root.manager.disable
        logging.disable(logging.WARNING)  # it advises a preparation that adds nothing to these graphs
        try:
            quantize_dynamic(
                graph,
                out,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                reduce_range=True,  # else sums overflow on processors without VNNI
                weight_type=QuantType.QInt8,
                nodes_to_exclude=head_nodes(graph),
            )
        finally:
            logging.disable(before)
        return onnx.load(out)


def describe(graph: onnx.ModelProto, values: dict[str, object]) -> None:
    """Put plain data into a graph's metadata."""
    entry = graph.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(values, ensure_ascii=False, allow_nan=False)
    graph.producer_name = "mocoop"


def save_onnx(graph: onnx.ModelProto, path: str) -> None:
    """Write a graph as one file."""
    Path(path).write_bytes(graph.SerializeToString())


def open_session(path: str, threads: int = 0):  # noqa: ANN201 (onnxruntime.InferenceSession, an optional package)
    """A file, ready to run on the CPU; threads 0 = one a core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors alone
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure(clf: Classifier, session: object, images: Images, name: str) -> str:
    """What a file answers on labelled images, beside the classifier.

    Args:
        clf: on the CPU; session: see `open_session`; images: a folder of class folders; name: of the file.

    Returns:
        Accuracy of both, and how often they agree, as a table.

    Raises:
        FileNotFoundError, DataError, WrongValue, ImageError: as `Classifier.evaluate`.
    """
    found = labelled(images, None, "test", None)
    classes = clf.classes_.tolist()
    truth = np.array(positions(as_known(found.labels, classes), classes))
    ours, theirs = [], []
    for batch in Reader(found.images, clf.model.backbone.preprocess, workers=clf.workers):
        with torch.no_grad():
            ours.append((clf.model(batch.images).float() / clf.temperature_).softmax(dim=1).numpy())
        theirs.append(session.run(["probabilities"], {"image": batch.images.numpy()})[0])
    ours, theirs = np.concatenate(ours), np.concatenate(theirs)
    answers, small = ours.argmax(axis=1), theirs.argmax(axis=1)
    rows = [
        ["accuracy, torch", f"{100 * (answers == truth).mean():.2f}%"],
        [f"accuracy, {name}", f"{100 * (small == truth).mean():.2f}%"],
        ["same answer", f"{100 * (answers == small).mean():.2f}%"],
        ["largest difference of probabilities", f"{np.abs(ours - theirs).max():.2g}"],
    ]
    return tabulate([["images", str(len(truth))], *rows], tablefmt="plain", disable_numparse=True)


# ---- TorchScript
# -------------------------------------------------------------------------------------------------------------


def write_torchscript(clf: Classifier, path: str | Path, overwrite: bool = False) -> None:
    """Write a traced, frozen module for `torch.jit.load` and libtorch: images [B, 3, S, S] -> as `Exported`.

    Its extra file `mocoop.json` holds `about`. (PyTorch calls TorchScript deprecated, and still loads it.)

    Raises:
        FileExistsError, WrongValue, OSError: as `write_onnx`.
    """
    module, size = exported(clf), clf.model.backbone.preprocess.size
    with new_file(Path(path), overwrite) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.no_grad():
                traced = torch.jit.freeze(torch.jit.trace(module, (torch.zeros(2, 3, size, size),)))
        except (RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0][:300]
            raise WrongValue(f"{clf.model.method} cannot be traced for TorchScript: {reason}") from error
        text = json.dumps(about(clf), ensure_ascii=False, allow_nan=False)
        written = io.BytesIO()  # torch's own writer to a path does not say when a disk is full
        torch.jit.save(traced, written, _extra_files={f"{KEY}.json": text})
        Path(temporary).write_bytes(written.getbuffer())
        check_equal(torch.jit.load(temporary), module, True, "the TorchScript file")


# ---- features
# ----------------------------------------------------------------------------------------------------------------


def class_matrix(model: PromptModel) -> dict[str, np.ndarray]:
    """What answers are made of once an image feature is there, as float32.

    Returns:
        `features`: [C, D] of norm 1, or with a router [G, C, D]; `logit_scale`; with a router also `router_weight`
        [G, D] and `router_bias` [G] of its linear layer, and `topk`, the experts that are mixed.

    Raises:
        WrongValue: every image has class features of its own.
    """
    features = model.kept_class_features()
    if features is None:
        raise WrongValue(f"{model.method} makes other class features for every image: export as onnx or torchscript")
    scale = model.logit_scale.detach()
    with torch.no_grad():
        if not hasattr(model, "route"):  # logits are linear: this also covers methods that average over groups
            width = features.shape[-1]
            features = (model.logits(torch.eye(width, device=model.device)) / scale).T
        found = {"features": features, "logit_scale": scale}
        if hasattr(model, "route"):
            found |= {"router_weight": model.router.weight, "router_bias": model.router.bias}
            found["topk"] = torch.tensor(float(min(model.topk, len(model.groups))))
    return {name: value.detach().float().cpu().numpy() for name, value in found.items()}


def write_features(clf: Classifier, path: str | Path, overwrite: bool = False) -> None:
    """Write `class_matrix` and the labels, as .npz (`labels` an array) or .safetensors (`about` in its metadata).

    Raises:
        FileExistsError, WrongValue, OSError: as `write_onnx`; the suffix is another one.
    """
    path, arrays = Path(path), class_matrix(clf.model)
    if path.suffix not in (".npz", ".safetensors"):
        raise WrongValue(f"{path}: expected a name that ends in .npz or .safetensors")
    text = json.dumps(about(clf), ensure_ascii=False, allow_nan=False)
    with new_file(path, overwrite) as temporary:
        if path.suffix == ".npz":
            np.savez(temporary, **arrays, labels=clf.classes_, about=np.array(text))
        else:
            from safetensors.numpy import save

            plain = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
            Path(temporary).write_bytes(save(plain, {KEY: text}))
