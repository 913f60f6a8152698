"""`mocoop <command> ...`: finds the command and runs it. Nothing heavy is imported before the command is known."""

import importlib
import os
import sys
from collections.abc import Sequence

from ..toolbox.dassl.utils import did_you_mean, printable

# Command -> (module with `main(argv) -> exit code`, what it does in one line).
COMMANDS = {
    "train": ("mocoop.train", "train or test one method on one data set (CoOp's arguments)"),
    "protocol": ("mocoop.commands.protocol", "the runs of a benchmark protocol, then its table"),
    "sweep": ("mocoop.commands.sweep", "many runs from one file, here or on a cluster"),
    "tune": ("mocoop.commands.tune", "search a method's settings on validation images"),
    "results": ("mocoop.results.command", "tables and figures of finished runs"),
    "prepare": ("mocoop.datasets.prepare", "download, unpack and check a data set"),
    "fit": ("mocoop.commands.fit", "train a classifier on a folder of images of your own"),
    "evaluate": ("mocoop.commands.evaluate", "measure a trained classifier on labelled images"),
    "predict": ("mocoop.commands.predict", "say what is on images"),
    "compare": ("mocoop.commands.compare", "compare methods on a folder of images of your own"),
    "explain": ("mocoop.commands.explain", "why images are answered as they are, and what the prompts have become"),
    "report": ("mocoop.commands.report", "one HTML page about a trained model"),
    "export": ("mocoop.commands.export", "a trained classifier as ONNX, TorchScript or class features"),
    "serve": ("mocoop.commands.serve", "a page to try a trained classifier in, and JSON over HTTP"),
    "push": ("mocoop.commands.push", "a trained classifier to the Hugging Face Hub"),
    "pull": ("mocoop.commands.pull", "a classifier from the Hugging Face Hub"),
    "bench": ("mocoop.commands.bench", "time a step of a method against the plain way"),
    "list": ("mocoop.commands.list", "methods, data sets, backbones or config keys"),
}

GOES_ON = ("train", "protocol", "sweep", "tune", "predict", "compare", "prepare")  # from what was saved last
FROM_THE_START = "Make room; the same command trains from the start."
CALL_AGAIN = "Make room, and call the same command again."
CONFIGURED = ("train", "protocol", "sweep", "tune", "bench")  # with config keys
TRAINS = ("fit", "compare")  # with settings given as KEY=VALUE
LESS_TO_TRAIN = "Encode fewer prompts at once (chunk=64), or train on fewer images at once (batch_size=8)."
LESS_TO_READ = (
    "Encode fewer images at once with a smaller --batch-size, where the command has it, or end other programs."
)


def usage() -> str:
    """What `mocoop --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: mocoop COMMAND ...", "", "Prompt learning for CLIP with a mixture of prompts.", "", *lines]
        + ["", "mocoop COMMAND --help says more."]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code. What is the user's to mend is one message and exit code 1."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        from .. import __version__

        print(f"mocoop {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"Error: no command {name!r}{did_you_mean(name, COMMANDS)}\n\n{usage()}", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(COMMANDS[name][0]).main(rest)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone: `mocoop predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would say so again at its end
        return 0
    except Exception as error:
        from ..runs.errors import LESS_MEMORY, MORE_SPACE, explain

        when_full = MORE_SPACE if name in GOES_ON else FROM_THE_START if name == "fit" else CALL_AGAIN
        less = LESS_MEMORY if name in CONFIGURED else LESS_TO_TRAIN if name in TRAINS else LESS_TO_READ
        message = None if os.environ.get("MOCOOP_TRACEBACK") else explain(error, when_full, less)
        if message is None:
            raise
        lines = map(printable, f"Error: {message}".split("\n"))  # names of files may hold anything
        print("\n".join(lines), file=sys.stderr)
        return 1
