"""What the imagecache service can be told."""

from __future__ import annotations

from glowplug_contracts.manifests import ENTRIES_MAX
from glowplug_runtime.settings import Settings

GIB = 1024 * 1024 * 1024


class ImagecacheSettings(Settings, frozen=True, kw_only=True):
    """Settings of GLOWPLUG_IMAGECACHE_*.

    Attributes:
        blob_bytes_max: longest blob taken, 50 GiB at most; arguments and results are held in memory by
            those who use them, so more does not help a call.
        free_bytes_min: uploads are refused while the disk has less free; lower risks the broker's
            disk, higher refuses early.
        sweep_s: seconds between removals of expired blobs, 1 … 3600.
        step_timeout_s: a build step is killed after it, 1 … 86400; big wheels over a slow line need
            minutes.
        container_wait_s: seconds that a build waits for a container before it gives up, because no
            worker has room.
        builds_max: builds at once in this replica; more wait in line.
        registry_mirrors: servers that are asked before a registry, in order:
            "docker.io=https://mirror.example, docker.io=http://10.0.0.1:5000".
        registry_plain: registries that speak HTTP without TLS ("old.example:80"); those of localhost do anyway.
        registry_networks: addresses that are not public and that pulls (of models, too) may reach all the same
            ("10.1.0.0/16"); wider means that users' images may name more of your network.
        registry_tries: how often a request to a registry is made while it fails, 1 … 20; pauses double.
        image_bytes_max: files of one image, and its layers' tars, 1 MiB … 1 TiB; larger ones are refused.
        image_entries_max: files and directories of one image, 1 … 1000000.
        hub_url: the Hugging Face hub that models named "hf:…" come from, or a mirror of it.
        volumes_dir: where volumes lie, the same as the gateways', for models that are made of one; "" = they can't be.
        model_bytes_max: files of one model, 1 MiB … 16 TiB; larger ones are refused.
        pulls_max: models that this replica brings at once, 1 … 64; more wait in line.
        store_bytes_max: above it, images that nothing needs are evicted, the least recently used first;
            0 = no bound but the disk's.
        workspace_bytes_max: what one workspace's images, models and blobs may come to, as if nothing were shared;
            0 = no quota. Beyond it, builds and uploads are refused.
        store: where objects are kept: "" for the data directory, which replicas on one host may share,
            "s3://bucket/prefix" for a bucket of all replicas, "replicas" for their own directories, with copies.
        store_members: how many replicas keep copies ("replicas" only); eviction waits until all are there.
        store_copies: of each object ("replicas" only); one fewer may be away, or lost, at once.
        store_port: where members of "replicas" reach each other's copies, beside `port`; 0 takes a free one.
        store_endpoint: the S3-compatible server, "https://host:port"; "" = Amazon's of the region.
        store_region: the bucket's region.
        store_keys_file: JSON with access_key_id, secret_access_key and, if there is one, session_token; "" = what
            the environment says (AWS_ACCESS_KEY_ID, …, a role).
        store_cache_bytes: of what a data directory has as a cache; what is in use may come on top.
        image_unused_s: images that nothing needs and nobody used for so long are evicted, whatever room
            there is, 3600 or more.
        evict_s: seconds between rounds of eviction, 1 or more; each lists the whole store.
        evict_grace_s: what was used within it is never evicted; shorter than a build's longest step may
            take away what it is about to use.
        scrub_bytes_per_s: how fast what is kept is read again to find what a disk changed; 0 = never.
        scrub_every_s: seconds from the start of one such reading of everything to the next.
    """

    blob_bytes_max: int = 4 * GIB
    free_bytes_min: int = GIB // 2
    sweep_s: float = 60.0
    step_timeout_s: float = 1800.0
    container_wait_s: float = 120.0
    builds_max: int = 4
    registry_mirrors: str = ""
    registry_plain: str = ""
    registry_networks: str = ""
    registry_tries: int = 5
    image_bytes_max: int = 64 * GIB
    image_entries_max: int = ENTRIES_MAX
    hub_url: str = "https://huggingface.co"
    volumes_dir: str = ""
    model_bytes_max: int = 1024 * GIB
    pulls_max: int = 2
    store_bytes_max: int = 100 * GIB
    workspace_bytes_max: int = 0
    store: str = ""
    store_endpoint: str = ""
    store_region: str = "us-east-1"
    store_keys_file: str = ""
    store_members: int = 3
    store_port: int = 0
    store_copies: int = 2
    store_cache_bytes: int = 20 * GIB
    image_unused_s: float = 30 * 86_400.0
    evict_s: float = 600.0
    evict_grace_s: float = 3600.0
    scrub_bytes_per_s: int = 16 * 1024 * 1024
    scrub_every_s: float = 7 * 86_400.0
