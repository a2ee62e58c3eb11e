"""NVML, the driver's library: the only file that speaks to it. Every call may block, so none is made in the loop.

What a driver or device can't tell (MIG on old ones, use per process under some) is left out, not guessed.
"""

from __future__ import annotations

from typing import Any, Final

import structlog

from glowplug_worker.gpus.model import Fault, Found, Reading, Readings, Use

log = structlog.get_logger()

EVENTS_AT_ONCE_MAX: Final = 64
# "Of the whole GPU, not of a part" in an event.
_NO_INSTANCE: Final = 0xFFFFFFFF
_IDLE_WORDS: Final = frozenset({"NVIDIA", "GeForce", "RTX", "Tesla"})


class Nvml:
    """An open NVML. Handles are kept: NVML's own numbers may change when a GPU is lost."""

    def __init__(self, library: Any) -> None:
        self._nvml = library
        self._handles: dict[str, Any] = {}
        self._since: dict[str, int] = {}
        self._told_lost: set[str] = set()
        self.driver = _text(library.nvmlSystemGetDriverVersion())
        self.found = tuple(self._find())
        self._whole = [each for each in self.found if not each.parent]
        self._watched = dict.fromkeys(each.parent or each.gpu_id for each in self.found)
        self._events = self._register()

    def close(self) -> None:
        """Let the driver go."""
        if self._events is not None:
            self._nvml.nvmlEventSetFree(self._events)
        self._nvml.nvmlShutdown()

    # -- what there is --------------------------------------------------------------------------

    def _find(self) -> list[Found]:
        nvml, found = self._nvml, []
        for number in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(number)
                gpu_id = _text(nvml.nvmlDeviceGetUUID(handle))
                name = _text(nvml.nvmlDeviceGetName(handle))
                minor = int(nvml.nvmlDeviceGetMinorNumber(handle))
                parts = self._parts(handle)
                size = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
            except nvml.NVMLError as error:
                log.warning("gpu.unreadable", index=number, error=str(error))
                continue
            self._handles[gpu_id] = handle
            if parts is None:
                found.append(
                    Found(
                        gpu_id=gpu_id,
                        kind=kind_of(name),
                        memory_bytes=size,
                        index=str(number),
                        minor=minor,
                    )
                )
            for at, part in enumerate(parts or ()):
                found.append(self._part(part, gpu_id, f"{number}:{at}", minor))
        return found

    def _parts(self, handle: Any) -> list[Any] | None:
        """Return the handles of MIG's parts, None for a GPU that is not cut."""
        nvml = self._nvml
        try:
            current, _ = nvml.nvmlDeviceGetMigMode(handle)
            if current != nvml.NVML_DEVICE_MIG_ENABLE:
                return None
            count = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
        except nvml.NVMLError:
            return None
        parts = []
        for number in range(count):
            try:
                parts.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number))
            except nvml.NVMLError:  # numbers without a part are gaps
                continue
        return parts

    def _part(self, handle: Any, parent: str, index: str, minor: int) -> Found:
        nvml = self._nvml
        part = Found(
            gpu_id=_text(nvml.nvmlDeviceGetUUID(handle)),
            kind=kind_of(_text(nvml.nvmlDeviceGetName(handle))),
            memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            index=index,
            minor=minor,
            parent=parent,
            gpu_instance=int(nvml.nvmlDeviceGetGpuInstanceId(handle)),
            compute_instance=int(nvml.nvmlDeviceGetComputeInstanceId(handle)),
        )
        self._handles[part.gpu_id] = handle
        return part

    # -- how it is ------------------------------------------------------------------------------

    def read(self) -> Readings:
        """Look at every device once, and hear what was reported since the last look."""
        devices: dict[str, Reading] = {}
        uses: list[Use] = []
        faults = self._heard()
        for each in self.found:
            try:
                devices[each.gpu_id] = self._reading(each)
            except self._nvml.NVMLError as error:
                lost = error.value == self._nvml.NVML_ERROR_GPU_IS_LOST
                if lost and each.gpu_id not in self._told_lost:
                    self._told_lost.add(each.gpu_id)
                    faults.append(Fault(gpu_id=each.gpu_id, what="lost"))
                continue
            uses += self._uses(each)
        return Readings(devices=devices, uses=tuple(uses), faults=tuple(faults))

    def _reading(self, device: Found) -> Reading:
        handle = self._handles[device.gpu_id]
        used = int(self._nvml.nvmlDeviceGetMemoryInfo(handle).used)
        try:
            busy = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except self._nvml.NVMLError as error:
            if error.value == self._nvml.NVML_ERROR_GPU_IS_LOST:
                raise
            busy = 0.0  # parts have none
        return Reading(used_bytes=used, busy=busy)

    def _uses(self, device: Found) -> list[Use]:
        nvml, handle = self._nvml, self._handles[device.gpu_id]
        try:
            running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except nvml.NVMLError:
            return []
        busy = self._busy(device) if running else {}
        return [
            Use(
                gpu_id=device.gpu_id,
                pid=int(each.pid),
                used_bytes=int(each.usedGpuMemory or 0),
                busy=busy.get(int(each.pid), 0.0),
            )
            for each in running
        ]

    def _busy(self, device: Found) -> dict[int, float]:
        """Return the newest sample of each process since the last look."""
        nvml = self._nvml
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(
                self._handles[device.gpu_id], self._since.get(device.gpu_id, 0)
            )
        except nvml.NVMLError:
            return {}
        ordered = sorted(samples, key=lambda each: each.timeStamp)
        if ordered:
            self._since[device.gpu_id] = int(ordered[-1].timeStamp)
        return {int(each.pid): min(1.0, each.smUtil / 100) for each in ordered}

    # -- what it reports ------------------------------------------------------------------------

    def _register(self) -> Any:
        nvml = self._nvml
        try:
            events = nvml.nvmlEventSetCreate()
        except nvml.NVMLError:
            return None
        wanted = nvml.nvmlEventTypeXidCriticalError | nvml.nvmlEventTypeDoubleBitEccError
        for gpu_id in self._watched:
            try:
                nvml.nvmlDeviceRegisterEvents(self._handles[gpu_id], wanted, events)
            except nvml.NVMLError as error:
                log.warning("gpu.unwatched", gpu_id=gpu_id, error=str(error))
        return events

    def _heard(self) -> list[Fault]:
        nvml, faults = self._nvml, list[Fault]()
        while self._events is not None and len(faults) < EVENTS_AT_ONCE_MAX:
            try:
                event = nvml.nvmlEventSetWait_v2(self._events, 0)
            except nvml.NVMLError as error:
                if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
                    break  # which one, reading each of them tells
                break
            ecc = event.eventType & nvml.nvmlEventTypeDoubleBitEccError
            faults.append(
                Fault(
                    gpu_id=self._id_of(event.device),
                    what="ecc" if ecc else "xid",
                    number=0 if ecc else int(event.eventData),
                    gpu_instance=_instance(event.gpuInstanceId),
                    compute_instance=_instance(event.computeInstanceId),
                )
            )
        return faults

    def _id_of(self, handle: Any) -> str:
        try:
            return _text(self._nvml.nvmlDeviceGetUUID(handle))
        except self._nvml.NVMLError:
            return ""


def open_nvml() -> Nvml | None:
    """Return NVML, None where there is no driver."""
    try:
        import pynvml  # noqa: PLC0415 - only workers look, once

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - NVML has an exception type per error; all mean "none here"
        return None
    try:
        return Nvml(pynvml)
    except pynvml.NVMLError as error:
        log.warning("gpu.driver_failed", error=str(error))
        pynvml.nvmlShutdown()
        return None


def kind_of(name: str) -> str:
    """Return the model in NVML's name: "NVIDIA H100 80GB HBM3" → "H100"; a part is "H100-1g.10gb"."""
    whole, mig, profile = name.partition(" MIG ")
    words = [word for word in whole.split() if word not in _IDLE_WORDS]
    kind = words[0] if words else whole
    return f"{kind}-{profile.strip()}" if mig else kind


def _instance(number: int) -> int:
    return -1 if number == _NO_INSTANCE else int(number)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
