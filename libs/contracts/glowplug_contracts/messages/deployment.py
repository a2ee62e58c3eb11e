"""What is deployed: a function's code, image, needs and policies, one immutable version at a time."""

from __future__ import annotations

from enum import StrEnum

from glowplug_contracts.ids import DeploymentId, Digest, ImageDigest, WorkspaceId
from glowplug_contracts.messages import Message
from glowplug_contracts.messages.event import TriggerSpec
from glowplug_contracts.messages.invocation import RetryPolicy
from glowplug_contracts.messages.network import NetworkSpec
from glowplug_contracts.messages.record import DEAD_LETTER_KEEP_S, KEEP_RESULT_S, RateLimit
from glowplug_contracts.messages.schedule import ScheduleSpec

HOST_BASE = "host"
STEP_KINDS = frozenset({"pip", "run", "file", "apt", "exec", "copy", "config"})


class FunctionKind(StrEnum):
    """Which decorator made it."""

    ENDPOINT = "endpoint"
    FUNCTION = "function"
    TASK_QUEUE = "task_queue"
    SCHEDULE = "schedule"
    ON_EVENT = "on_event"


class ImageSpec(Message, frozen=True, kw_only=True):
    """How an image is made. Equal specs make equal images.

    Attributes:
        base: "host", or the name of an image in a registry: "debian:12", "registry.example/app@sha256:…".
        credentials: name of the secret with the registry's user and password; "" = none are shown.
        python_version: "3.11", or "" for the one the platform runs, or that the base has.
        steps: in order; each is cached by the digest of everything before it.
        force: make every step again, whatever is cached, and look tags up again.
    """

    base: str = HOST_BASE
    credentials: str = ""
    python_version: str = ""
    steps: tuple[ImageStep, ...] = ()
    env: dict[str, str] = {}
    force: bool = False

    def blobs(self) -> list[Digest]:
        """Return what its steps add, those of stages included."""
        own = [step.blob for step in self.steps if step.blob is not None]
        return own + [blob for step in self.steps if step.stage for blob in step.stage.blobs()]

    def secrets(self) -> tuple[SecretRef, ...]:
        """Return the secrets that its steps name, those of stages included, each once."""
        own = [ref for step in self.steps for ref in step.secrets]
        own += [ref for step in self.steps if step.stage for ref in step.stage.secrets()]
        return tuple(dict.fromkeys(own))

    @property
    def on_host(self) -> bool:
        """Return whether containers have the host's system and one of its Pythons."""
        return self.base == HOST_BASE


class ImageStep(Message, frozen=True, kw_only=True):
    """One step of a build.

    `kind` is "pip" (args: requirement lines), "run" (args: one shell command), "file" (args: one
    path inside the layer; `blob` holds a tar of what is added there) or "apt" (args: names of Debian packages).
    Of Dockerfiles: "exec" (args: a command's words), "copy" (args: the target, then what of the `stage`; without
    one, `blob` holds a tar with files below `f/` and contents of directories below `d/`), "config" (`env` and `cwd`
    become the image's).

    Attributes:
        env: of "exec" and "config"; `${NAME}` is filled in with what the image has, `$$` is a dollar.
        cwd: of "exec" and "config"; "" = the image's.
        user: of "exec": a name or number of the image's, with ":group"; "" = root.
        uid, gid: of "copy": who owns what is copied.
        mode: of "copy"; -1 = as they are.
        stage: of "copy": the image whose files are meant.
        secrets: of "pip", "apt" and "run": whose variables the step's command has, and nothing else.
        force: make this step and those after it again, whatever is cached.
    """

    kind: str
    args: tuple[str, ...] = ()
    blob: Digest | None = None
    env: dict[str, str] = {}
    cwd: str = ""
    user: str = ""
    uid: int = 0
    gid: int = 0
    mode: int = -1
    stage: ImageSpec | None = None
    secrets: tuple[SecretRef, ...] = ()
    force: bool = False


class AutoscalerSpec(Message, frozen=True, kw_only=True):
    """Queue-depth scaling.

    Attributes:
        min_containers: kept even when idle (only of the latest version).
        max_containers: never more.
        buffer_containers: kept ready beyond what the inputs justify, while any wait or run.
        tasks_per_container: inputs waiting or running that justify one container.
        keep_warm_s: idle seconds before scale-in; −1 = forever.
    """

    min_containers: int = 0
    max_containers: int = 1
    tasks_per_container: int = 1
    keep_warm_s: float = 10.0
    buffer_containers: int = 0


class Resources(Message, frozen=True, kw_only=True):
    """What one container needs.

    Attributes:
        cpu_millis: thousandths of a core requested for placement.
        cpu_limit_millis: never more than so much, also when the host is idle; 0 = as much as is free.
        memory_bytes: requested for placement.
        memory_limit_bytes: enforced by killing; 0 = none given.
        disk_bytes: what it may write outside of volumes, on a disk of its own; 0 = a file system in
            memory of the worker's size.
        gpus: acceptable kinds in order of preference ("any" accepts every kind); empty = none.
        gpu_count: devices, each whole.
    """

    cpu_millis: int = 125
    memory_bytes: int = 128 * 1024 * 1024
    memory_limit_bytes: int = 0
    cpu_limit_millis: int = 0
    disk_bytes: int = 0
    gpus: tuple[str, ...] = ()
    gpu_count: int = 0
    gpu_memory_bytes: int = 0


class SourceRef(Message, frozen=True, kw_only=True):
    """The user's code: a zip by digest, and where the callable is in it.

    Attributes:
        blob: zip archive; None when the function ships by value only.
        handler: "module:qualname" inside the archive, or "" when `pickled` is set.
        pickled: digest of a cloudpickle of the function (closures, notebooks); only the runner loads it.
        on_start: "module:qualname", or ""; `on_start_pickled` likewise, and so for on_exit.
        sharing: what containers may have from a template: "" = what importing brings, where that is safe;
            "on_start" = what on_start brings, too; "nothing".
    """

    blob: Digest | None = None
    handler: str = ""
    pickled: Digest | None = None
    on_start: str = ""
    on_start_pickled: Digest | None = None
    on_exit: str = ""
    on_exit_pickled: Digest | None = None
    sharing: str = ""


class SecretRef(Message, frozen=True, kw_only=True):
    """A secret whose variables a container gets; deploying fails where a required key is missing."""

    name: str
    required_keys: tuple[str, ...] = ()


class VolumeMount(Message, frozen=True, kw_only=True):
    """A volume that a container sees at `path` (absolute)."""

    name: str
    path: str
    read_only: bool = False


class ModelMount(Message, frozen=True, kw_only=True):
    """A model whose files a container sees at `path` (absolute), read-only.

    `version` is the digest of one of its versions, or "" for the latest when the container starts.
    """

    name: str
    path: str
    version: str = ""


class FieldSpec(Message, frozen=True, kw_only=True):
    """One named value of `inputs` or `outputs`, as the SDK's `schema` describes it.

    `type` is "string", "integer", "float", "boolean", "list" (of `items`), "enum" (one of `choices`),
    "object" (with `fields`, if any) or "json" (anything). An optional one may be left out or null, and
    is then `default`.
    """

    type: str
    optional: bool = False
    default: object = None
    items: FieldSpec | None = None
    fields: dict[str, FieldSpec] = {}
    choices: tuple[str, ...] = ()


class DeploymentSpec(Message, frozen=True, kw_only=True):
    """Everything the user said about one version.

    Attributes:
        python_version: minor version ("3.11") of the Python that pickled what travels by value.
        max_pending: accepted and not ended; 0 = no bound but the platform's.
        expires_s: a durable invocation that has not started after so many seconds expires; 0 = never.
        keep_result_s: how long a durable invocation's record is kept after its end.
        rate: how many durable invocations may start in a time.
        callback_url: told of the end of a durable invocation that names none itself; "" = nobody.
        dead_letter_keep_s: how long durable invocations that ended unsuccessfully are kept as dead
            letters; 0 = none are made.
        schedule: when it is due; of kind SCHEDULE only, and always there.
        trigger: which events call it (kind ON_EVENT).
        takes: what an endpoint's function is called with: "" keyword arguments, "request" the whole
            request as one value, as `lambda_handler(event, context)` does.
    """

    name: str
    kind: FunctionKind
    source: SourceRef
    app: str = ""
    image: ImageSpec = ImageSpec()
    resources: Resources = Resources()
    autoscaler: AutoscalerSpec = AutoscalerSpec()
    env: dict[str, str] = {}
    workers: int = 1
    concurrent_requests: int = 1
    timeout_s: float = 3600.0
    retry: RetryPolicy = RetryPolicy()
    max_pending: int = 0
    authorized: bool = True
    inputs: dict[str, FieldSpec] | None = None
    outputs: dict[str, FieldSpec] | None = None
    python_version: str = ""
    is_generator: bool = False
    priority: int = 0
    expires_s: float = 0.0
    secrets: tuple[SecretRef, ...] = ()
    volumes: tuple[VolumeMount, ...] = ()
    models: tuple[ModelMount, ...] = ()
    network: NetworkSpec = NetworkSpec()
    keep_result_s: float = KEEP_RESULT_S
    rate: RateLimit = RateLimit()
    callback_url: str = ""
    dead_letter_keep_s: float = DEAD_LETTER_KEEP_S
    schedule: ScheduleSpec | None = None
    trigger: TriggerSpec | None = None
    takes: str = ""


class DeploymentState(StrEnum):
    """ACTIVE serves; DELETED answers 404 and scales to zero."""

    ACTIVE = "active"
    DELETED = "deleted"


class Deployment(Message, frozen=True, kw_only=True):
    """One immutable version of a function, as stored in the `deployments` bucket.

    `latest` is true for the version that un-versioned calls reach: only it honours min_containers.
    `image_digest` is "" for the bare host base. `ephemeral` versions serve `.remote()` of programs that
    did not deploy: their id is derived from the spec, and no name leads to them; `used_at` is about when work
    last came for one. `base_python` is the minor version that its containers run ("" = the platform's own).
    """

    deployment_id: DeploymentId
    workspace: WorkspaceId
    version: int
    spec: DeploymentSpec
    image_digest: ImageDigest = ImageDigest("")
    state: DeploymentState = DeploymentState.ACTIVE
    latest: bool = True
    ephemeral: bool = False
    created_at: float = 0.0
    base_python: str = ""
    used_at: float = 0.0


class FunctionIndex(Message, frozen=True, kw_only=True):
    """Which versions a name has, as stored in the `functions` bucket (key: workspace.name)."""

    name: str
    workspace: WorkspaceId
    kind: FunctionKind
    app: str = ""
    latest: DeploymentId = DeploymentId("")
    versions: dict[int, DeploymentId] = {}
    next_version: int = 1


class Principal(Message, frozen=True, kw_only=True):
    """Who a token stands for, as stored in the `tokens` bucket (key: SHA-256 of the token)."""

    workspace: WorkspaceId
    name: str
    created_at: float = 0.0
