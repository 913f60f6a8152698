"""What a data set is: lists of `Datum`, and the few-shot draw."""

import os
import random
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Sequence

from ...errors import WrongValue
from ...utils.tools import check_isfile, download_url


class Datum:
    """One image: path, label, domain and class name.

    Pickled caches of CoOp-family repositories hold objects of this class path with these four underscore attributes.

    Args:
        impath: path of an existing file.
        label: class index, from 0.
        domain: domain index.
        classname: the class's name.

    Raises:
        TypeError: if `impath` is not a string.
        FileNotFoundError: if it names no file (Dassl asserts).
    """

    def __init__(self, impath: str = "", label: int = 0, domain: int = 0, classname: str = "") -> None:
        if not isinstance(impath, str):
            raise TypeError(f"Expected the path of an image as a string, found {impath!r}")
        if not check_isfile(impath):
            raise FileNotFoundError(f'No image at "{impath}" (class "{classname}"); is the data set complete?')
        self._impath = impath
        self._label = label
        self._domain = domain
        self._classname = classname

    @property
    def impath(self) -> str:
        """Path of the image file."""
        return self._impath

    @property
    def label(self) -> int:
        """Class index."""
        return self._label

    @property
    def domain(self) -> int:
        """Domain index."""
        return self._domain

    @property
    def classname(self) -> str:
        """Name of the class."""
        return self._classname


class DatasetBase:
    """The splits of a data set, and the classes of its training split.

    Args:
        train_x: labelled training images; the classes are derived from these alone.
        train_u: unlabelled training images, or None.
        val: validation images, or None.
        test: test images.

    Raises:
        ValueError: if `train_x` is empty, or two class names share a label (Dassl picks one by hash order).
        TypeError: if `train_x` is None.
    """

    dataset_dir = ""
    domains: list[str] = []

    def __init__(
        self,
        train_x: list[Datum] | None = None,
        train_u: list[Datum] | None = None,
        val: list[Datum] | None = None,
        test: list[Datum] | None = None,
    ) -> None:
        self._train_x = train_x
        self._train_u = train_u
        self._val = val
        self._test = test
        self._num_classes = self.get_num_classes(train_x)
        self._lab2cname, self._classnames = self.get_lab2cname(train_x)

    @property
    def train_x(self) -> list[Datum]:
        """Labelled training images."""
        return self._train_x

    @property
    def train_u(self) -> list[Datum] | None:
        """Unlabelled training images."""
        return self._train_u

    @property
    def val(self) -> list[Datum] | None:
        """Validation images."""
        return self._val

    @property
    def test(self) -> list[Datum]:
        """Test images."""
        return self._test

    @property
    def num_classes(self) -> int:
        """Largest label plus one."""
        return self._num_classes

    @property
    def lab2cname(self) -> dict[int, str]:
        """Label -> class name."""
        return self._lab2cname

    @property
    def classnames(self) -> list[str]:
        """Class names in label order."""
        return self._classnames

    @staticmethod
    def get_num_classes(data_source: list[Datum]) -> int:
        """Return the largest label plus one; ValueError on an empty list, TypeError on None."""
        if data_source is None:
            raise TypeError("Expected a list of training images, found None")
        if not data_source:
            raise WrongValue("The training split is empty: no image, hence no class; is the data set complete?")
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source: list[Datum]) -> tuple[dict[int, str], list[str]]:
        """Return (label -> class name, class names in label order); ValueError if a label has two names."""
        names: dict[int, str] = {}
        for item in data_source:
            if names.setdefault(item.label, item.classname) != item.classname:
                raise WrongValue(
                    f'Label {item.label} has two class names: "{names[item.label]}" and "{item.classname}"'
                )
        names = dict(sorted(names.items()))
        return names, list(names.values())

    def check_input_domains(self, source_domains: Sequence[str], target_domains: Sequence[str]) -> None:
        """Check that the configured domains are domains of this data set; ValueError names the first that is not."""
        self.is_input_domain_valid(source_domains)
        self.is_input_domain_valid(target_domains)

    def is_input_domain_valid(self, input_domains: Sequence[str]) -> None:
        """Check one list of domains, as `check_input_domains`."""
        for domain in input_domains:
            if domain not in self.domains:
                raise WrongValue(f"Expected a domain of {self.domains}, found [{domain}]")

    def download_data(self, url: str, dst: str, from_gdrive: bool = True) -> None:
        """Download an archive (zip, tar, tar.gz) to `dst` and extract it beside itself.

        Members that would land outside the folder are refused, which Dassl does not check.
        """
        os.makedirs(os.path.dirname(dst) or ".", exist_ok=True)
        download_url(url, dst, from_gdrive=from_gdrive)
        folder = os.path.dirname(dst) or "."
        if zipfile.is_zipfile(dst):
            with zipfile.ZipFile(dst) as archive:
                archive.extractall(folder)  # zipfile itself strips ".." and leading slashes
        elif tarfile.is_tarfile(dst):
            with tarfile.open(dst) as archive:
                archive.extractall(folder, filter="data")
        else:
            raise WrongValue(
                f'Expected a zip or tar archive at "{dst}", found something else; was the download complete?'
            )

    def generate_fewshot_dataset(
        self, *data_sources: list[Datum], num_shots: int = -1, repeat: bool = False
    ) -> list | tuple:
        """Draw `num_shots` images of every class, by the module-level `random`, as CoOp-family data sets expect.

        Classes come in the order of their first image; each with enough images is one `random.sample` (also when it
        has exactly enough), a smaller one is taken whole without a draw, or by one `random.choices` if `repeat`.

        Args:
            data_sources: the lists to draw from, one after the other.
            num_shots: images a class; below 1 nothing is drawn.
            repeat: fill small classes up by drawing with replacement.

        Returns:
            One list for one source; for several, a list of lists (with `num_shots` < 1 the sources, as a tuple).
        """
        if num_shots < 1:
            return data_sources[0] if len(data_sources) == 1 else data_sources
        print(f"Creating a {num_shots}-shot dataset")
        output = []
        for source in data_sources:
            chosen = []
            for items in self.split_dataset_by_label(source).values():
                if len(items) >= num_shots:
                    items = random.sample(items, num_shots)
                elif repeat:
                    items = random.choices(items, k=num_shots)
                chosen.extend(items)
            output.append(chosen)
        return output[0] if len(output) == 1 else output

    def split_dataset_by_label(self, data_source: list[Datum]) -> dict[int, list[Datum]]:
        """Group images by label: keys in first-seen order, images in input order."""
        groups = defaultdict(list)
        for item in data_source:
            groups[item.label].append(item)
        return groups

    def split_dataset_by_domain(self, data_source: list[Datum]) -> dict[int, list[Datum]]:
        """Group images by domain: keys in first-seen order, images in input order."""
        groups = defaultdict(list)
        for item in data_source:
            groups[item.domain].append(item)
        return groups
