"""The distribution `mocoop`: the repository root is the package (see README.md, "What each folder is for")."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
FOLDERS = [
    "benchmarks",
    "classifier",
    "clip",
    "commands",
    "config",
    "configs",
    "datasets",
    "report",
    "results",
    "runs",
    "serving",
    "toolbox",
    "trainers",
]
# onnxscript turns torch's graphs into ONNX, onnx holds them, onnxruntime runs and checks what was written
EXPORT = ["onnx", "onnxscript", "onnxruntime"]
SERVE = ["fastapi", "uvicorn", "python-multipart"]  # the web application, what runs it, and forms with files
CLUSTER = ["submitit>=1.5"]  # `sweep --on slurm`: arrays, queued again after a preemption or the end of their time
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "__init__.py").read_text(), re.M)[1]

packages = ["mocoop"]
for folder in FOLDERS:
    packages += [f"mocoop.{folder}"] + [f"mocoop.{folder}.{name}" for name in find_packages(folder)]


class BuildPy(build_py):
    """The root is the package, but this file is not part of it."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Modules of a package folder as (package, module, file)."""
        return [found for found in super().find_package_modules(package, package_dir) if found[1] != "setup"]


setup(
    name="mocoop",
    version=VERSION,
    description="Mixture of prompts (MoCoOp) and its baselines for CLIP, as a plugin of the Dassl/CoOp toolbox",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    author="The mocoop authors",
    license="MIT",
    url="https://arxiv.org/abs/2409.12011",  # the method's paper
    keywords=["CLIP", "prompt learning", "mixture of experts", "few-shot", "CoOp", "Dassl"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10",
    packages=packages,
    package_dir={"mocoop": "."},
    cmdclass={"build_py": BuildPy},
    entry_points={"console_scripts": ["mocoop = mocoop.commands.main:main"]},
    package_data={
        "mocoop": ["py.typed"],
        "mocoop.clip": ["demo/*", "miniature/*"],
        "mocoop.datasets": ["miniature/*"],
        "mocoop.serving": ["page/*"],
        "mocoop.report": ["page.html", "page.css", "page.js"],
        "mocoop.configs": ["datasets/*.yaml", "sweeps/*.yaml", "trainers/*/*.yaml"],
    },
    install_requires=[
        "torch>=2.4",  # everything
        "torchvision",  # image transforms; must be the build that belongs to the installed torch, hence no pin
        "open_clip_torch>=2.32",  # CLIP's architectures, tokenizer, weights; older image towers are not cut into steps
        "yacs",  # Dassl's config format
        "safetensors",  # weights without pickles; the demo backbone is stored in it
        "tqdm",  # progress bars
        "tabulate",  # the tables Dassl prints
        "scipy",  # reads the .mat annotations of Stanford Cars and Oxford Flowers
        "gdown>=6.5",  # the benchmark's split files live on Google Drive; downloads with resume and retries
        "filelock",  # two processes do not run in one folder or download the same thing at once
        "pillow",  # reads images, draws the icons of the demo world
        "QtAwesome",  # carries those icon fonts (2.6 MB; Qt itself is not needed and not installed)
    ],
    extras_require={
        # xdist runs the suite on all cores; hypothesis makes malformed files, settings and names; matplotlib for the
        # tests of figures; setuptools and wheel build the wheel that a test installs; scikit-learn clones and
        # cross-validates the classifier;
        # playwright drives a browser (an installed chromium, or its own) over the report and over
        # the page of `serve`, httpx is another client of it;
        # optuna and submitit for what `tune` and `sweep` do with them
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.7",  # --no-loadscope-reorder
            "hypothesis",
            "ruff",
            "matplotlib",
            "setuptools>=68",
            "wheel",
            "scikit-learn",
            "playwright",
            "jinja2",
            "httpx",
            "optuna>=4",
            *CLUSTER,
            *EXPORT,
            *SERVE,
        ],
        "cluster": CLUSTER,
        "tensorboard": ["tensorboard"],  # Dassl's scalar log; a run without it prints one line and goes on
        "figures": ["matplotlib"],
        "export": EXPORT,
        "serve": SERVE,
        "tune": [
            "optuna>=4",
            "matplotlib",
        ],  # chooses the settings to try, keeps the trials where several machines see them
        "hub": ["huggingface_hub>=0.25"],  # what `push`, `pull` and "hf://" send and fetch by; open_clip brings it too
        "report": ["jinja2"],  # fills in the HTML page, escaping what users gave; torch needs it too, so it is there
    },
)
