"""What the gateway can be told, beyond what every service can."""

from __future__ import annotations

from glowplug_runtime.settings import Settings

MIB = 1024 * 1024


class GatewaySettings(Settings, frozen=True, kw_only=True):
    """The gateway's settings.

    Attributes:
        port: 1994 unless told otherwise; 0 takes a free one.
        master_key_file: file (mode 0600) with 32 random bytes as hexadecimal or base64, under which secrets
            are sealed; "" = this platform keeps none.
        grpc_port: of the gRPC door, 1993 unless told otherwise; 0 takes a free one, −1 opens none. It opens a
            moment after the gateway is ready; if the port is held, health says so.
        tls_cert_file, tls_key_file: PEM files of a certificate (with its chain) and its key; HTTP and gRPC then speak
            TLS 1.2 or later on their ports, and nothing else. "" = no TLS: for loopback, or behind a proxy.
        plain_host: with TLS, where the platform's own parts reach this gateway without it, on a free port that
            answers nobody else. Loopback where all parts are on one machine; otherwise an address of a
            network of their own.
        volumes_dir: where volumes lie, the same as the workers'; "" = this platform has none.
        volume_bytes_max, volume_files_max: what one volume may hold for more to be uploaded; 0 = no bound but
            the disk's. Containers write past this: only what goes through a gateway can be refused.
        token_file: file with a token that is made known at start, if it is not yet; "" for none.
        ephemeral_keep_s: seconds without work after which what a program made by calling (not by deploying) is
            forgotten, with its image; the program makes it anew when it runs again.
        body_bytes_max: larger request bodies are refused with 413; blobs have their own route and bound.
        blob_bytes_max: of one uploaded blob.
        output_bytes_max: of one file that a task saves as an output.
        output_keep_s: how long an output is kept at least, 90 days at most; a task's result that is kept longer
            keeps its outputs, too.
        public_url: origin under which others reach the gateways, such as "https://glow.example.org", for
            addresses that are given out inside containers; "" = the gateway's own.
        in_hand_max: inputs that one workspace may have waiting at this gateway; more costs memory.
        drain_s: seconds that requests in hand get after SIGTERM; the supervisor must wait longer.
        errors_shown: whether /endpoint answers type and message of exceptions, or only the id.
        callback_networks: networks beside the public addresses that callbacks may reach, as
            "10.1.0.0/16, ::1/128"; private, loopback and link-local addresses are refused else.
        callback_timeout_s: seconds that one try of a callback may take.
        callback_tries_max: tries; then a callback is given up and shown as failed.
        callback_retry_s: the pause after the first try, which doubles up to an hour.
        spans_kept, segments_kept, calls_kept: rows of the read model; older ones go first.
    """

    port: int = 1994
    master_key_file: str = ""
    grpc_port: int = 1993
    tls_cert_file: str = ""
    tls_key_file: str = ""
    plain_host: str = "127.0.0.1"
    volumes_dir: str = ""
    volume_bytes_max: int = 0
    volume_files_max: int = 0
    token_file: str = ""
    ephemeral_keep_s: float = 7 * 86_400.0
    body_bytes_max: int = 16 * MIB
    blob_bytes_max: int = 16 * 1024 * MIB
    output_bytes_max: int = 4 * 1024 * MIB
    output_keep_s: float = 7 * 86_400.0
    public_url: str = ""
    in_hand_max: int = 100_000
    drain_s: float = 10.0
    errors_shown: bool = True
    callback_networks: str = ""
    callback_timeout_s: float = 15.0
    callback_tries_max: int = 14
    callback_retry_s: float = 1.0
    spans_kept: int = 200_000
    segments_kept: int = 50_000
    calls_kept: int = 100_000
