#!/usr/bin/python3 -IS
"""kubectl as its users see it, from recorded answers: $FAKE_KUBECTL names a
folder with answers.json, a list of {"args": REGEX, "out": TEXT or "file": NAME,
"err": TEXT, "code": N}; with "seconds" it takes so long and notes how many such
run in running.log. The first that matches the arguments answers, each call is a
line of calls.log, and what `-f -` was given one of inputs.log. Nothing that
matches is an error of its own, so that no call goes unnoticed."""

import json
import os
import re
import sys
import time

folder = os.environ["FAKE_KUBECTL"]
arguments = " ".join(sys.argv[1:])


def read(name):
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        return file.read()


with open(os.path.join(folder, "calls.log"), "a", encoding="utf-8") as log:
    log.write(arguments + "\n")
if arguments.endswith("-f -"):
    with open(os.path.join(folder, "inputs.log"), "a", encoding="utf-8") as log:
        log.write(sys.stdin.read() + "\n")
for number, answer in enumerate(json.loads(read("answers.json"))):
    if not re.search(answer["args"], arguments):
        continue
    if "once" in answer:
        used = os.path.join(folder, f"used-{number}")
        if os.path.exists(used):
            continue
        open(used, "x", encoding="utf-8").close()
    if "seconds" in answer:
        mark = os.path.join(folder, f"running-{os.getpid()}")
        open(mark, "x", encoding="utf-8").close()
        running = sum(name.startswith("running-") for name in os.listdir(folder))
        with open(os.path.join(folder, "running.log"), "a", encoding="utf-8") as log:
            log.write(f"{running}\n")
        time.sleep(answer["seconds"])
        os.unlink(mark)
    text = read(answer["file"]) if "file" in answer else answer.get("out", "")
    sys.stdout.write(text if isinstance(text, str) else json.dumps(text))
    sys.stderr.write(answer.get("err", ""))
    sys.exit(answer.get("code", 0))
sys.stderr.write(f"error: the test has no answer to: {arguments}\n")
sys.exit(99)
