"""What the fake gateway starts for a deployment: a process with the uploaded source and the SDK only.

It plays the runner: reads orders from stdin, runs the function on every input, writes outcomes.
"""

from __future__ import annotations

import sys


def read():
    size = sys.stdin.buffer.read(4)
    return sys.stdin.buffer.read(int.from_bytes(size)) if size else None


def main() -> None:
    import msgspec

    setup = msgspec.msgpack.decode(read())
    sys.path.insert(0, setup["sdk"])
    sys.path.insert(0, setup["source"])
    out, sys.stdout = sys.stdout.buffer, sys.stderr
    from glowplug.runner import start

    sys.modules["__main__"] = start.USER_MAIN
    while (data := read()) is not None:
        answer = msgspec.msgpack.encode(run(setup, msgspec.msgpack.decode(data)))
        out.write(len(answer).to_bytes(4) + answer)
        out.flush()


def run(setup, order):
    import base64
    import pickle

    from glowplug._vendor import cloudpickle
    from glowplug.runner.failures import remote_error
    from glowplug.runner.loading import load_function

    outcomes = []
    for index, data in order["inputs"]:
        outcome = {"index": index, "state": "succeeded", "run_ms": 0.1}
        try:
            function = load_function(setup["handler"], setup["pickled"])
            args, kwargs = pickle.loads(data)
            result = function(*args, **kwargs)
            for item in result if order["stream"] else [result]:
                body = cloudpickle.dumps(item)
                payload = {"format": "pickle", "data": body, "size": len(body)}
                outcomes.append({**outcome, "result": payload})
        except Exception as error:  # noqa: BLE001
            described = remote_error(error, source=setup["source"])
            if described["pickled"]:
                described["pickled"] = base64.b64decode(described["pickled"])
            outcomes.append({**outcome, "state": "failed", "error": described})
    return outcomes


main()
