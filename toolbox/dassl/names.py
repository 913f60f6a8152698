"""The names a config may use, without importing torch, so that a typo is reported before anything heavy starts."""

TRANSFORMS = (
    "random_flip",
    "random_resized_crop",
    "normalize",
    "instance_norm",
    "random_crop",
    "random_translation",
    "center_crop",
    "cutout",
    "imagenet_policy",
    "cifar10_policy",
    "svhn_policy",
    "randaugment",
    "gaussian_noise",
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
)
# Dassl has these two; torchvision has no equivalent, and no CoOp-family plugin uses them.
UNSUPPORTED_TRANSFORMS = ("randaugment_fixmatch", "randaugment2")
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
SAMPLERS = ("RandomSampler", "SequentialSampler", "RandomDomainSampler", "SeqDomainSampler", "RandomClassSampler")
OPTIMIZERS = ("adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw")
LR_SCHEDULERS = ("single_step", "multi_step", "cosine")
WARMUPS = ("linear", "constant")
FINAL_MODELS = ("last_step", "best_val")
