"""Registries, files, seeds, logging, meters and checkpoints; every name is imported on first use."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Registry": "registry",
        "ImageError": "images",
        "atomic_write": "tools",
        "check_availability": "tools",
        "check_isfile": "tools",
        "check_writable": "tools",
        "collect_env_info": "tools",
        "cores": "tools",
        "download_url": "tools",
        "get_most_similar_str_to_a_from_b": "tools",
        "keep_freed_memory": "tools",
        "listdir_nohidden": "tools",
        "mkdir_if_missing": "tools",
        "read_image": "images",
        "read_json": "tools",
        "set_random_seed": "tools",
        "tolist_if_not": "tools",
        "write_json": "tools",
        "Logger": "logger",
        "setup_logger": "logger",
        "AverageMeter": "meters",
        "MetricMeter": "meters",
        "CheckpointError": "torchtools",
        "count_num_param": "torchtools",
        "get_rng_state": "torchtools",
        "load_checkpoint": "torchtools",
        "load_pretrained_weights": "torchtools",
        "resume_from_checkpoint": "torchtools",
        "save_checkpoint": "torchtools",
        "set_rng_state": "torchtools",
    },
)
