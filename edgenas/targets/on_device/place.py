"""Running commands, and keeping and reading files, where the agent measures. Standard library, Python 3.6.

Usually that is the machine that the agent runs on. For a device without Python (Android) the agent runs on the host, and everything
goes through `VIA`, an object with the same functions. Commands are lists; no shell reads them.
"""

import errno
import os
import shutil
import signal
import subprocess
import tempfile
import time

VIA = None
PREFIX = "edgenas-"
STALE_S = 24 * 3600  # a work folder of an agent whose host never came back


def run(argv, timeout_s=10.0, cwd=None, merged=False):
    """(exit code, standard output, standard error) as text; (None, what it said until then, reason) if it could not be run, or took too
    long and was killed with all that it started. `merged`: both in the order in which they came, as standard output."""
    if VIA is not None:
        return VIA.run(argv, timeout_s)
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merged else subprocess.PIPE,
            cwd=cwd,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return None, "", str(error)
    code, reason = None, ""
    try:
        said = process.communicate(timeout=timeout_s)
        code = process.returncode
    except subprocess.TimeoutExpired:
        kill(process)
        said, reason = process.communicate(), "%s did not end within %g s" % (os.path.basename(argv[0]), timeout_s)
    except BaseException:
        kill(process)
        process.communicate()
        raise
    out, err = ((text or b"").decode("utf-8", "replace") for text in said)
    return code, out, reason or err


def kill(process):
    """With all that it started."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except OSError:
        pass  # it ended in between


def first_line(argv, timeout_s=3.0):
    """The first line of a command that would go on forever, or None."""
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True
        )
    except OSError:
        return None
    import threading

    timer = threading.Timer(timeout_s, process.kill)
    timer.start()
    try:
        return process.stdout.readline().strip() or None
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


def read(path):
    """The text of a small file, stripped, or None."""
    if VIA is not None:
        return VIA.read(path)
    try:
        with open(path) as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return None


def names(folder):
    """What lies in a folder, sorted; nothing if it can't be read."""
    if VIA is not None:
        return VIA.names(folder)
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def work_folder(token):
    """A new folder, or the one that this token has already. Folders that are a day old are removed."""
    if VIA is not None:
        return VIA.work_folder(token)
    base = tempfile.gettempdir()
    folder = os.path.join(base, PREFIX + token)
    for name in os.listdir(base):
        path = os.path.join(base, name)
        try:
            if name.startswith(PREFIX) and path != folder and time.time() - os.stat(path).st_mtime > STALE_S:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            pass
    if not os.path.isdir(folder):
        os.mkdir(folder, 0o700)
    os.utime(folder)
    return folder


def write(folder, name, token, offset, piece, last):
    """One piece of a file of `folder`; `token` tells this writing from others. With the last it is there, whole. Returns its path."""
    if VIA is not None:
        return VIA.write(folder, name, token, offset, piece, last)
    path, unfinished = os.path.join(folder, name), os.path.join(folder, ".unfinished-" + token)
    try:
        with open(unfinished, "r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(piece)
            file.truncate()
        if last:
            os.replace(unfinished, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            try:
                os.remove(unfinished)
            except OSError:
                pass
        raise
    return path


def read_piece(path, offset, count):
    """(bytes, whether more follow)."""
    if VIA is not None:
        return VIA.read_piece(path, offset, count)
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(count)
        return data, bool(file.read(1))


def remove(folder):
    if VIA is not None:
        VIA.remove(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
