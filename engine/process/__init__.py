"""The engine process and the handle on it: requests in, steps out, cancel, heartbeat.

    server process                                   engine process (spawned)
    EngineProcess  -- Generate, Cancel, Close -->    Worker
      (handle.py)  <-- Loading, Ready, Stepped,        (worker.py)
                       Failed, Beat -----------

The handle has a child (child.py: the process, its pipes, its silence) and what that has answered
(answers.py). msgspec messages (messages.py) over one ZeroMQ pair on a Unix socket, in a folder that
only this user can enter. The handle's side imports no torch. Only this room knows zmq and msgspec.
"""

from engine.process.handle import EngineProcess

__all__ = ["EngineProcess"]
