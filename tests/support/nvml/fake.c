/* A libnvidia-ml.so.1 of our own, for tests on hosts without a GPU. It answers from the text file that
 * GLOWPLUG_FAKE_NVML names, read anew at every call, so that a test can change the world as it goes:
 *
 *   driver 550.54.15
 *   gpu 0 uuid=GPU-a name=NVIDIA_H100_80GB_HBM3 minor=0 total=85899345920 used=0 busy=0 mig=0 lost=0
 *   mig 0 0 uuid=MIG-a name=NVIDIA_H100_80GB_HBM3_MIG_1g.10gb total=10 used=0 gi=7 ci=0
 *   use 0 pid=123 bytes=1024 sm=50
 *   xid 0 79            (or: xid 0 79 gi=7 ci=0)
 *   ecc 0
 *
 * `_` in a name stands for a space. Handles are 1000 + GPU, parts 2000 + 16 * GPU + part. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, BAD_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
       TOO_SMALL = 7, TIMEOUT = 10, LOST = 15 };
typedef unsigned long long u64;
typedef struct { u64 total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } rates_t;
typedef struct { unsigned pid; u64 bytes; unsigned gi, ci; } process_t;
typedef struct { unsigned pid; u64 at; unsigned sm, mem, enc, dec; } sample_t;
typedef struct { void *device; u64 type, data; unsigned gi, ci; } event_t;

static int events_told;

static int next_line(FILE **file, char *line, int size) {
  if (!*file) {
    const char *path = getenv("GLOWPLUG_FAKE_NVML");
    *file = path ? fopen(path, "r") : NULL;
  }
  if (*file && fgets(line, size, *file)) return 1;
  if (*file) fclose(*file);
  return 0;
}

static const char *field(const char *line, const char *name) {
  static char value[256];
  char key[64];
  snprintf(key, sizeof key, " %s=", name);
  const char *at = strstr(line, key);
  if (!at || sscanf(at + strlen(key), "%255s", value) != 1) return NULL;
  return value;
}

static u64 number(const char *line, const char *name, u64 otherwise) {
  const char *value = field(line, name);
  return value ? strtoull(value, NULL, 0) : otherwise;
}

/* Finds the line that describes a handle; LOST if it says so. */
static int describe(void *handle, char *found, int size) {
  long h = (long)handle, gpu = h >= 2000 ? (h - 2000) / 16 : h - 1000, part = h >= 2000 ? (h - 2000) % 16 : -1;
  char line[512];
  FILE *file = NULL;
  int result = NOT_FOUND;
  while (next_line(&file, line, sizeof line)) {
    long g = -1, p = -1;
    if (sscanf(line, "gpu %ld", &g) == 1 && g == gpu && number(line, "lost", 0)) { fclose(file); return LOST; }
    if (part < 0 ? g == gpu : sscanf(line, "mig %ld %ld", &g, &p) == 2 && g == gpu && p == part) {
      snprintf(found, size, "%s", line);
      result = OK;
    }
  }
  return result;
}

#define DESCRIBE(handle) char line[512]; int result = describe(handle, line, sizeof line); if (result) return result

int nvmlInitWithFlags(unsigned flags) { (void)flags; return getenv("GLOWPLUG_FAKE_NVML") ? OK : NOT_FOUND; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "an error of the fake"; }

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
  char line[512], version[64];
  FILE *file = NULL;
  snprintf(text, size, "0.0");
  while (next_line(&file, line, sizeof line))
    if (sscanf(line, "driver %63s", version) == 1) snprintf(text, size, "%s", version);
  return OK;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
  char line[512];
  FILE *file = NULL;
  *count = 0;
  while (next_line(&file, line, sizeof line)) *count += !strncmp(line, "gpu ", 4);
  return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
  *handle = (void *)(1000L + index);
  DESCRIBE(*handle);
  return OK;
}

static int text(void *handle, const char *name, char *out, unsigned size) {
  DESCRIBE(handle);
  const char *value = field(line, name);
  snprintf(out, size, "%s", value ? value : "");
  if (!strcmp(name, "name")) for (char *c = out; *c; c++) if (*c == '_') *c = ' ';
  return OK;
}
int nvmlDeviceGetUUID(void *handle, char *out, unsigned size) { return text(handle, "uuid", out, size); }
int nvmlDeviceGetName(void *handle, char *out, unsigned size) { return text(handle, "name", out, size); }

int nvmlDeviceGetMinorNumber(void *handle, unsigned *minor) {
  DESCRIBE(handle);
  *minor = number(line, "minor", 0);
  return OK;
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
  DESCRIBE(handle);
  memory->total = number(line, "total", 0);
  memory->used = number(line, "used", 0);
  memory->free = memory->total - memory->used;
  return OK;
}

int nvmlDeviceGetUtilizationRates(void *handle, rates_t *rates) {
  DESCRIBE(handle);
  if ((long)handle >= 2000) return NOT_SUPPORTED;
  rates->gpu = number(line, "busy", 0);
  return OK;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
  DESCRIBE(handle);
  const char *mig = field(line, "mig");
  if (!mig) return NOT_SUPPORTED;
  *current = *pending = number(line, "mig", 0);
  return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) { (void)handle; *count = 7; return OK; }

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **part) {
  *part = (void *)(2000 + 16 * ((long)handle - 1000) + index);
  DESCRIBE(*part);
  return OK;
}

int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *id) { DESCRIBE(handle); *id = number(line, "gi", 0); return OK; }
int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *id) { DESCRIBE(handle); *id = number(line, "ci", 0); return OK; }

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process_t *out) {
  char line[512];
  FILE *file = NULL;
  unsigned found = 0, room = *count;
  while (next_line(&file, line, sizeof line)) {
    long gpu;
    if (sscanf(line, "use %ld", &gpu) == 1 && gpu + 1000 == (long)handle) {
      if (out && found < room) out[found] = (process_t){number(line, "pid", 0), number(line, "bytes", 0), -1, -1};
      found++;
    }
  }
  *count = found;
  return found > room ? TOO_SMALL : OK;
}

int nvmlDeviceGetProcessUtilization(void *handle, sample_t *out, unsigned *count, u64 since) {
  char line[512];
  FILE *file = NULL;
  unsigned found = 0, room = *count;
  (void)since;
  while (next_line(&file, line, sizeof line)) {
    long gpu;
    if (sscanf(line, "use %ld", &gpu) == 1 && gpu + 1000 == (long)handle) {
      if (out && found < room) out[found] = (sample_t){number(line, "pid", 0), 1 + found, number(line, "sm", 0), 0, 0, 0};
      found++;
    }
  }
  *count = found;
  return found && !out ? TOO_SMALL : found ? OK : NOT_FOUND;
}

int nvmlEventSetCreate(void **set) { *set = (void *)1; return OK; }
int nvmlEventSetFree(void *set) { (void)set; return OK; }
int nvmlDeviceRegisterEvents(void *handle, u64 types, void *set) { (void)types; (void)set; DESCRIBE(handle); return OK; }

int nvmlEventSetWait_v2(void *set, event_t *event, unsigned timeout_ms) {
  char line[512];
  FILE *file = NULL;
  int seen = 0;
  (void)set; (void)timeout_ms;
  while (next_line(&file, line, sizeof line)) {
    long gpu;
    u64 xid = 0;
    int is_xid = sscanf(line, "xid %ld %llu", &gpu, &xid) == 2, is_ecc = sscanf(line, "ecc %ld", &gpu) == 1;
    if ((is_xid || is_ecc) && seen++ == events_told) {
      events_told++;
      fclose(file);
      *event = (event_t){(void *)(1000 + gpu), is_xid ? 8 : 2, xid,
                         number(line, "gi", 0xffffffff), number(line, "ci", 0xffffffff)};
      return OK;
    }
  }
  return TIMEOUT;
}
