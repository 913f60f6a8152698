"""The configs, as data of the package: `datasets/*.yaml`, `trainers/<Method>/*.yaml`."""
