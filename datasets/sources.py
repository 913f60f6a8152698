"""Where the benchmark's files come from, what they hold and how many images there are: a table, no code.

Addresses and Drive ids: CoOp's DATASETS.md; for Caltech101, EuroSAT and Food-101 torchvision's (newer). MD5 checksums:
torchvision's, where it has one. Counts: CoOp paper, appendix A.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class File:
    """One file to fetch.

    Attributes:
        name: its name in the data set's folder.
        urls: addresses, tried in order; "drive:ID" is a file on Google Drive; none = it has to be downloaded by hand.
        makes: archives only: path in the data set's folder -> name inside the archive, at whatever depth.
        md5: its MD5 checksum, where known.
        page: where to find it by hand.
        unless: path in the data set's folder; if it exists, this file is not needed.
        needed: False for annotations that are only needed without the published split.
        kind: how it is unpacked: "plain", "imagenet_train" (a tar of tars) or "imagenet_val" (sorted into classes).
    """

    name: str
    urls: tuple[str, ...] = ()
    makes: dict[str, str] = field(default_factory=dict)
    md5: str = ""
    page: str = ""
    unless: str = ""
    needed: bool = True
    kind: str = "plain"


@dataclass(frozen=True)
class Source:
    """The files of a data set and its size; None where there is no such part (ImageNet's val is its test)."""

    files: tuple[File, ...]
    classes: int
    train: int | None
    val: int | None
    test: int


def keeping_names(*names: str) -> dict[str, str]:
    """`makes` of an archive whose parts keep their names."""
    return {name: name for name in names}


def split(name: str, drive: str) -> File:
    """A split JSON that CoOp published."""
    return File(f"split_zhou_{name}.json", (f"drive:{drive}",), page=f"https://drive.google.com/file/d/{drive}/view")


VGG = "https://www.robots.ox.ac.uk/~vgg/data"
CARS = "http://ai.stanford.edu/~jkrause"
CARS_PAGE = f"{CARS}/cars/car_dataset.html (often offline; mirrors exist)"
SUN = "http://vision.princeton.edu/projects/2010/SUN"
IMAGENET_PAGE = "https://image-net.org/download.php (free registration, ILSVRC2012)"
CLASSNAMES = File(
    "classnames.txt",
    ("drive:1-61f_ol79pViBFDG_IDlUQSwoLcn2XXF",),
    page="https://drive.google.com/file/d/1-61f_ol79pViBFDG_IDlUQSwoLcn2XXF/view",
)

SOURCES = {
    "ImageNet": Source(
        (
            CLASSNAMES,
            File(
                "ILSVRC2012_devkit_t12.tar.gz",
                makes=keeping_names("ILSVRC2012_devkit_t12"),
                md5="fa75699e90414af021442c21a62c3abf",
                page=IMAGENET_PAGE,
                unless="images/val",
            ),
            File(
                "ILSVRC2012_img_val.tar",
                makes={"images/val": ""},
                md5="29b22e2961454d5413ddabcf34fc5622",
                page=IMAGENET_PAGE,
                kind="imagenet_val",
            ),
            File(
                "ILSVRC2012_img_train.tar",
                makes={"images/train": ""},
                md5="1d675b47d978889d74fa0da5fadfb00e",
                page=IMAGENET_PAGE,
                kind="imagenet_train",
            ),
        ),
        *(1000, 1_281_167, None, 50_000),
    ),
    "Caltech101": Source(
        (
            split("Caltech101", "1hyarUivQE36mY6jSomru6Fjd-JzwcCzN"),
            File(
                "caltech-101.zip",
                ("https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",),
                makes=keeping_names("101_ObjectCategories"),
                md5="3138e1922a9193bfa496528edbbc45d0",
                page="https://data.caltech.edu/records/mzrjq-6wc02",
            ),
        ),
        *(100, 4_128, 1_649, 2_465),
    ),
    "OxfordPets": Source(
        (
            split("OxfordPets", "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs"),
            File(
                "images.tar.gz",
                (f"{VGG}/pets/data/images.tar.gz",),
                makes=keeping_names("images"),
                md5="5c4f3ee8e5d25df40f4fd59a7f44e54c",
                page=f"{VGG}/pets/",
            ),
            File(
                "annotations.tar.gz",
                (f"{VGG}/pets/data/annotations.tar.gz",),
                makes=keeping_names("annotations"),
                md5="95a8c909bbe2e81eed6a22bccdf3f68f",
                page=f"{VGG}/pets/",
                needed=False,
            ),
        ),
        *(37, 2_944, 736, 3_669),
    ),
    "StanfordCars": Source(
        (
            split("StanfordCars", "1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT"),
            File("cars_train.tgz", (f"{CARS}/car196/cars_train.tgz",), keeping_names("cars_train"), page=CARS_PAGE),
            File("cars_test.tgz", (f"{CARS}/car196/cars_test.tgz",), keeping_names("cars_test"), page=CARS_PAGE),
            File(
                "cars_test_annos_withlabels.mat",
                (f"{CARS}/car196/cars_test_annos_withlabels.mat",),
                page=CARS_PAGE,
                needed=False,
            ),
            File(
                "car_devkit.tgz",
                ("https://ai.stanford.edu/~jkrause/cars/car_devkit.tgz",),
                keeping_names("devkit"),
                page=CARS_PAGE,
                needed=False,
            ),
        ),
        *(196, 6_509, 1_635, 8_041),
    ),
    "OxfordFlowers": Source(
        (
            split("OxfordFlowers", "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT"),
            File(
                "102flowers.tgz",
                (f"{VGG}/flowers/102/102flowers.tgz",),
                makes=keeping_names("jpg"),
                md5="52808999861908f626f3c1f4e79d11fa",
                page=f"{VGG}/flowers/102/",
            ),
            File(
                "imagelabels.mat",
                (f"{VGG}/flowers/102/imagelabels.mat",),
                md5="e0620be6f572b9609742df49c70aed4d",
                page=f"{VGG}/flowers/102/",
                needed=False,
            ),
            File("cat_to_name.json", ("drive:1AkcxCXeK_RCGCEC_GvmWxjcjaNhu-at0",), needed=False),
        ),
        *(102, 4_093, 1_633, 2_463),
    ),
    "Food101": Source(
        (
            split("Food101", "1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl"),
            File(
                "food-101.tar.gz",
                ("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",),
                makes=keeping_names("images", "meta"),
                md5="85eeb15f3717b99a5da872d97d918f87",
                page="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
            ),
        ),
        *(101, 50_500, 20_200, 30_300),
    ),
    "FGVCAircraft": Source(
        (
            File(
                "fgvc-aircraft-2013b.tar.gz",
                (f"{VGG}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",),
                makes=keeping_names(
                    *("images", "variants.txt", "images_variant_train.txt"),
                    *("images_variant_val.txt", "images_variant_test.txt"),
                ),
                page=f"{VGG}/fgvc-aircraft/",
            ),
        ),
        *(100, 3_334, 3_333, 3_333),
    ),
    "SUN397": Source(
        (
            split("SUN397", "1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq"),
            File(
                "SUN397.tar.gz",
                (f"{SUN}/SUN397.tar.gz",),
                makes=keeping_names("SUN397"),
                md5="8ca2778205c41d23104230ba66911c7a",
                page=f"{SUN}/",
            ),
            File(
                "Partitions.zip",
                (f"{SUN}/download/Partitions.zip",),
                makes=keeping_names("ClassName.txt", "Training_01.txt", "Testing_01.txt"),
                page=f"{SUN}/",
                needed=False,
            ),
        ),
        *(397, 15_880, 3_970, 19_850),
    ),
    "DescribableTextures": Source(
        (
            split("DescribableTextures", "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x"),
            File(
                "dtd-r1.0.1.tar.gz",
                (f"{VGG}/dtd/download/dtd-r1.0.1.tar.gz",),
                makes=keeping_names("images", "labels"),
                md5="fff73e5086ae6bdbea199a49dfb8a4c1",
                page=f"{VGG}/dtd/",
            ),
        ),
        *(47, 2_820, 1_128, 1_692),
    ),
    "EuroSAT": Source(
        (
            split("EuroSAT", "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o"),
            File(
                "EuroSAT.zip",
                (
                    "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
                    "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                    "http://madm.dfki.de/files/sentinel/EuroSAT.zip",
                ),
                makes=keeping_names("2750"),
                md5="c8fa014336c82ac7804f0398fcb19387",
                page="https://github.com/phelber/EuroSAT",
            ),
        ),
        *(10, 13_500, 5_400, 8_100),
    ),
    "UCF101": Source(
        (
            split("UCF101", "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y"),
            File(
                "UCF-101-midframes.zip",
                ("drive:10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O",),
                makes=keeping_names("UCF-101-midframes"),
                page="https://drive.google.com/file/d/10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O/view",
            ),
            File(
                "UCF101TrainTestSplits-RecognitionTask.zip",
                ("https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",),
                makes=keeping_names("ucfTrainTestlist"),
                page="https://www.crcv.ucf.edu/data/UCF101.php",
                needed=False,
            ),
        ),
        *(101, 7_639, 1_898, 3_783),
    ),
    "ImageNetV2": Source(
        (
            CLASSNAMES,
            File(
                "imagenetv2-matched-frequency.tar.gz",
                ("https://s3-us-west-2.amazonaws.com/imagenetv2public/imagenetv2-matched-frequency.tar.gz",),
                makes=keeping_names("imagenetv2-matched-frequency-format-val"),
                page="https://github.com/modestyachts/ImageNetV2",
            ),
        ),
        *(1000, None, None, 10_000),
    ),
    "ImageNetSketch": Source(
        (
            CLASSNAMES,
            File(
                "ImageNet-Sketch.zip",
                ("https://huggingface.co/datasets/songweig/imagenet_sketch/resolve/main/data/ImageNet-Sketch.zip",),
                makes={"images": "sketch"},
                page="https://github.com/HaohanWang/ImageNet-Sketch",
            ),
        ),
        *(1000, None, None, 50_889),
    ),
    "ImageNetA": Source(
        (
            CLASSNAMES,
            File(
                "imagenet-a.tar",
                ("https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",),
                makes=keeping_names("imagenet-a"),
                page="https://github.com/hendrycks/natural-adv-examples",
            ),
        ),
        *(200, None, None, 7_500),
    ),
    "ImageNetR": Source(
        (
            CLASSNAMES,
            File(
                "imagenet-r.tar",
                ("https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",),
                makes=keeping_names("imagenet-r"),
                page="https://github.com/hendrycks/imagenet-r",
            ),
        ),
        *(200, None, None, 30_000),
    ),
}
