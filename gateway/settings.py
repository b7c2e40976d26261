"""The settings tree: frozen, checked once at the start, each part receives its own branch. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field

from monitor.settings import LaneSettings, MonitorSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """How requests that wait at the same moment are joined for one run of the model."""

    max_rows: int = 64  # rows in one run; 1 turns joining off
    latency_target_ms: float = 100.0  # joined runs are kept short enough for it; a version's options may say another
    warm_up_s: float = 2.0  # a version's rows are run at growing sizes before it is ready, for so long at most
    inline_below_ms: float = 1.0  # runs predicted shorter happen on the event loop; others take a slot
    slots: int = 0  # runs of a worker in slots at once; 0: its share of the cores, and at least two


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """What one caller, or all together, may ask for."""

    body_bytes: int = 64 * 1024 * 1024  # largest request body
    incoming_bytes: int = 512 * 1024 * 1024  # of long bodies that come in or wait, of all callers of a worker
    tensor_elements: int = 64 * 1024 * 1024  # most elements in one tensor
    answer_bytes: int = 64 * 1024 * 1024  # of one output, as numbers, in the answer to one request; more get 413
    unread_bytes: int = 512 * 1024 * 1024  # of answers that callers have not read, of all callers of a worker; then 503
    run_memory_bytes: int = (
        0  # of a worker, for runs whose requests say what they take; 0: a share of half the machine's or container's
    )
    json_depth: int = 100  # levels of lists and objects in a JSON body
    connections: int = 16_384  # callers' connections of a worker at once; fewer where files are limited; then 503
    head_bytes: int = 64 * 1024  # request line and headers together
    headers: int = 128  # of one request
    head_seconds: float = 20.0  # for the request line and headers to arrive; slower callers get 408
    body_seconds: float = 60.0  # for a body to arrive, of any size, else 408; also for a caller to read on in an answer
    decompression_ratio: int = 200  # how much larger than what was sent a body may become, above 1 MiB
    compress_from_bytes: int = 4096  # answers from this size on are compressed for callers that accept it; 0: none is
    waiting_requests: int = 1024  # requests of one model inside at once, per worker; more are refused with 503
    waiting_seconds: float = 10.0  # the longest that a request is let wait for its run, by prediction; else 503


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowSettings:
    """Copies of requests for shadow versions."""

    waiting_rows: int = 4096  # rows that may wait for a shadow run; more are dropped and counted
    busy_share: float = 0.005  # share of a busy worker's time that shadow runs may take: evidence still trickles in
    busy_above: float = 0.7  # a worker is busy when its event loop works more than this share of the time


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When a version whose runs fail is not tried for a while."""

    failures: int = 20  # failed runs of a version in a row, in one worker, that open its breaker; 0: never
    within_s: float = 30.0  # they came within so long; what fails more rarely is let fail
    cool_down_s: float = 5.0  # requests are refused for so long, then one is let through as a trial


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """Which of the registered versions a worker holds in memory."""

    when: str = "start"  # start: ahead of requests, as far as the memory budget goes; request: when one wants it
    memory_budget_bytes: int = (
        0  # resident memory of one worker, above which the least recently used leave; 0: no limit
    )
    waiting_requests: int = 256  # requests of a worker that may wait for loads at once; more are refused with 503
    wait_s: float = 60.0  # the longest that a request waits for a load; its deadline may be shorter


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """The data port and its workers."""

    host: str = "127.0.0.1"  # address of the data port
    port: int = 8080  # 0: any free port
    grpc: str = "auto"  # on, off, or auto: on where the grpc extra is installed and the port is free
    grpc_port: int = 8082  # 0: any free port; the flag --grpc-port also says grpc = "on"
    workers: int = 1  # worker processes that share the data port
    drain_s: float = 5.0  # after SIGTERM: still accepting, answers say Connection: close
    grace_s: float = 25.0  # then: not accepting, still answering on open connections
    lease_s: float = 3.0  # a canary's weight is 0 when the controller has not renewed for this long
    threads: int = 1  # onnxruntime threads inside one run
    idle_poll_us: float = 50.0  # a worker looks so long for a quick caller's next request before it sleeps; 0: never
    repository_control: bool = False  # callers of the data port may load and unload models (Triton's calls)
    default_model: str = ""  # answers on routes that name no model (/invocations, /score); empty: the only model
    predict_route: str = ""  # one more path that takes predictions, in the V1 form; Vertex AI: AIP_PREDICT_ROUTE
    health_route: str = ""  # one more path that answers as /ping does; Vertex AI: AIP_HEALTH_ROUTE
    batch: BatchSettings = field(default_factory=BatchSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    shadow: ShadowSettings = field(default_factory=ShadowSettings)
    load: LoadSettings = field(default_factory=LoadSettings)
    breaker: BreakerSettings = field(default_factory=BreakerSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """The control port."""

    host: str = "127.0.0.1"  # address of the control port; anything but loopback needs token_file
    port: int = 8081  # 0: any free port
    token_file: str = ""  # bearer tokens, one `name role token` a line
    allowed_hosts: tuple[str, ...] = ()  # Host headers accepted besides loopback names and the address itself


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """Where models and decisions are stored."""

    database_url: str = ""  # default: registry.db in the state folder; or a PostgreSQL URL
    artifacts_url: str = ""  # default: artifacts/ in the state folder; or any fsspec URL
    probe_seconds: float = 120.0  # wall time that probing a model may take
    probe_memory_mb: int = 8192  # address space of the probing process
    probe_file_mb: int = 4096  # largest file that the probing process may write


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set."""

    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    control: ControlSettings = field(default_factory=ControlSettings)
    registry: RegistrySettings = field(default_factory=RegistrySettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    lanes: LaneSettings = field(default_factory=LaneSettings)
