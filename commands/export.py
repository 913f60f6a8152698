"""`mocoop export RUN`: a trained classifier as one file for programs without this package."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..toolbox.dassl.errors import WrongValue
from .arguments import add_run, open_run

# Format -> suffix of its file, beside RUN unless --out says otherwise.
FORMATS = {"onnx": ".onnx", "torchscript": ".pt", "features": ".npz"}


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="mocoop export", description="A trained classifier as one file for programs without this package."
    )
    add_run(parser, device=False)
    add = parser.add_argument
    add("--format", choices=FORMATS, default="onnx", help="features: class features and labels (default: onnx)")
    add("--out", type=Path, metavar="FILE", help="default: model.onnx, model.pt or features.npz in RUN")
    add("--precision", choices=["fp32", "fp16", "int8"], default="fp32", help="of an ONNX file's image tower")
    add("--images", metavar="FOLDER", help="one folder of images per class: accuracy of the ONNX file beside torch's")
    add("--overwrite", action="store_true", help="replace an existing file")
    return parser


def default_out(run: Path, form: str, precision: str) -> Path:
    """Where the file goes: into the run's folder, beside a single file, or where you are if RUN is on the hub."""
    stem = "features" if form == "features" else "model" if precision == "fp32" else f"model-{precision}"
    folder = run if run.is_dir() else run.parent if run.exists() else Path()
    return folder / f"{stem}{FORMATS[form]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = build_parser().parse_args(argv)
    if args.format != "onnx" and (args.precision != "fp32" or args.images):
        raise WrongValue(f"--precision and --images are for ONNX files, found --format {args.format}")
    out = args.out or default_out(Path(args.run), args.format, args.precision)
    if out.exists() and not args.overwrite:
        raise FileExistsError(f"{out} exists; give another --out, or --overwrite")
    clf = open_run(args)
    from ..classifier import export

    if args.format == "onnx":
        measured = export.write_onnx(clf, out, args.precision, args.overwrite, args.images)
        print(measured or "Checked against torch on noise; accuracy not measured (--images FOLDER does).")
    elif args.format == "torchscript":
        export.write_torchscript(clf, out, args.overwrite)
    else:
        export.write_features(clf, out, args.overwrite)
    print(f"Wrote {out} ({out.stat().st_size:,} bytes)")
    return 0
