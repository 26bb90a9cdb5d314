"""The suite under AddressSanitizer and UndefinedBehaviorSanitizer: python tests/sanitize.py [args].

Builds the package with PYCONV_SANITIZE into a virtual environment of its own, preloads the
runtimes (Python itself is not instrumented) and runs pytest, whose arguments may follow. Any report
aborts the run.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).parents[1]


def runtime(name):
    found = subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()
    if not pathlib.Path(found).is_absolute():
        sys.exit(f"g++ has no {name}; install GCC's sanitizer runtimes")
    return found


def main():
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(pathlib.Path(folder) / "bin" / "python")
        install = [python, "-m", "pip", "install", "--quiet", f"{ROOT}[test]"]
        subprocess.check_call([*install, "-Ccmake.define.PYCONV_SANITIZE=ON"])
        environment = os.environ | {
            "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')}",
            # Python keeps memory on purpose; an absurd size must be a MemoryError, not a report.
            "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:log_path={folder}/report",
            "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={folder}/report",
            "PYCONV_SANITIZED": "1",  # tests that limit the address space cannot run
        }
        # The house rules need no kernels; the CUDA kernels' host build is sanitized by itself.
        skipped = [f"--ignore=tests/test_{name}.py" for name in ("house", "cuda_host")]
        command = [python, "-P", "-m", "pytest", "-x", "-p", "no:cacheprovider", *skipped]
        # Two processes, as instrumented tests are slow: the gradients' files, and the others.
        parts = [["-k", "backward or transpose"], ["-k", "not backward and not transpose"]]
        runs = [
            subprocess.Popen([*command, *part, *sys.argv[1:]], cwd=ROOT, env=environment)
            for part in parts
        ]
        codes = [run.wait() for run in runs]
        reports = sorted(pathlib.Path(folder).glob("report*"))  # pytest would have swallowed them
        for report in reports:
            print(report.read_text(), file=sys.stderr)
        sys.exit(max(codes) or len(reports))


if __name__ == "__main__":
    main()
