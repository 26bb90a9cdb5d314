"""The command `pyconv`: train, eval, predict, report, export, download, summary, bench, info."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

_EXIT_CODES = """exit codes: 0 success, 1 error, 2 wrong usage, 130 (Ctrl-C) and 143 (SIGTERM)
stopped after finishing the step and saving the state for --resume"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = _parser()
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(arguments)
    try:
        if getattr(args, "config", None) is not None:
            # As options put before the given ones, so that both are checked alike and these win.
            args = parser.parse_args([args.command, *_toml_options(args.config), *arguments[1:]])
        code: int = args.run(args)
        return code
    except KeyboardInterrupt:
        return 130
    except (
        *(ImportError, OSError, ValueError, FloatingPointError, MemoryError),
        NotImplementedError,  # an export that ONNX has no operator for
    ) as error:
        print(f"pyconv: error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    from pyconv.bench import command as bench
    from pyconv.nn.models import CATALOGUE
    from pyconv.train.config import Config

    parser = argparse.ArgumentParser(
        prog="pyconv",
        description="Train and use convolutional networks.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=run)
        return sub

    train = command(
        "train",
        _train,
        "Train a network; with no options LeNet-5 on the handwritten digits in the package.",
    )
    option = train.add_argument
    for setting in fields(Config):
        _add_setting(train, setting, tuple(CATALOGUE))
    option("--data-dir", metavar="DIR", help="where the data sets lie; default $PYCONV_DATA")
    option("--device", default="cpu", help="cpu, cuda or cuda:NUMBER; default cpu")
    option("--threads", type=_positive, metavar="T", help="default: all cores; changes no result")
    option("--out", type=Path, metavar="DIR", help="default runs/MODEL-DATA, numbered if it exists")
    option("--resume", action="store_true", help="go on with the stopped run in --out")
    option("--tensorboard", action="store_true", help="write event files for TensorBoard too")
    option("--config", type=Path, metavar="FILE", help="TOML file of these options")

    evaluate = command("eval", _eval, "Test accuracy of a finished run.")
    evaluate.add_argument("directory", type=Path, metavar="RUN")
    evaluate.add_argument("--data", metavar="D", help="default: the data it was trained on")
    evaluate.add_argument("--data-dir", metavar="DIR", help="default $PYCONV_DATA")

    look = command("report", _report, "Write one HTML file about a finished run: RUN/report.html.")
    look.add_argument("directory", type=Path, metavar="RUN")
    look.add_argument("--data-dir", metavar="DIR", help="default $PYCONV_DATA")

    write = command("export", _export, "Write the network of a finished run as an ONNX file.")
    write.add_argument("directory", type=Path, metavar="RUN")
    write.add_argument("file", type=Path, metavar="FILE.onnx")

    fetch = command("download", _download, "Fetch a published data set and check it.")
    fetch.add_argument("name", choices=("mnist", "fashion", "cifar10", "cifar100"))
    fetch.add_argument("--data-dir", metavar="DIR", help="default $PYCONV_DATA")

    predict = command("predict", _predict, "Classify image files with a finished run.")
    predict.add_argument("directory", type=Path, metavar="RUN")
    predict.add_argument("images", nargs="+", metavar="IMAGE")

    summary = command("summary", _summary, "Layers of a model: shapes, parameters, multiply-adds.")
    summary.add_argument("model", metavar="MODEL", help=f"{', '.join(CATALOGUE)}, or a run")
    summary.add_argument("--channels", type=_positive, metavar="C", help="of the input; default 1")
    summary.add_argument("--classes", type=_positive, default=10, metavar="K", help="default 10")

    bench.add_options(command("bench", bench.run, bench.DESCRIPTION))
    command("info", _info, "What was built and what was chosen on this machine.")
    return parser


def _add_setting(
    parser: argparse.ArgumentParser, setting: Field[Any], models: Sequence[str]
) -> None:
    """An option that is None where it was not given, so that a data set's defaults can count."""
    options: dict[str, Any] = {"help": setting.metadata["help"], "default": None}
    if setting.name == "group":
        options |= {"action": "append", "metavar": "G"}
    elif isinstance(setting.default, bool):
        options["action"] = argparse.BooleanOptionalAction
    else:
        options["help"] += f"; default {setting.default}"
        options |= {"type": _type(setting), "metavar": type(setting.default).__name__.upper()}
        if choices := models if setting.name == "model" else setting.metadata["choices"]:
            options |= {"choices": choices, "metavar": None}
    parser.add_argument(f"--{setting.name.replace('_', '-')}", **options)


def _type(setting: Field[Any]) -> Callable[[str], Any]:
    kind: Callable[[str], Any] = type(setting.default)

    def read(text: str) -> Any:
        value = kind(text)
        low = setting.metadata["low"]
        if low is not None and not value >= low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, got {value}")
        return value

    read.__name__ = kind.__name__  # argparse names it: invalid int value
    return read


def _train(args: argparse.Namespace) -> int:
    import pyconv
    from pyconv._gpu import device_of
    from pyconv.nn.files import safetensors_module
    from pyconv.train.config import Config, read_config
    from pyconv.train.run import Interrupted, run

    safetensors_module()  # tell now, not after an epoch, what the checkpoint would lack
    try:
        device_of("--device", args.device)
    except RuntimeError as error:  # what a GPU lacks is an answer here, not a fault
        raise ValueError(str(error)) from error
    if args.threads is not None:
        pyconv.set_num_threads(args.threads)
    names = (setting.name for setting in fields(Config))
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if "group" in given:
        given["group"] = tuple(given["group"])
    if args.resume:
        if args.out is None:
            raise ValueError("--resume needs --out RUN, the directory of the stopped run")
        config, directory = read_config(args.out), args.out
        for name, value in given.items():
            if value != getattr(config, name):
                raise ValueError(
                    f"--resume: the run has {name} = {getattr(config, name)!r}, not {value!r}"
                )
    else:
        config = Config.of(given)
        directory = args.out or _free(config.model, config.data)
        if (directory / "config.json").exists():
            raise ValueError(f"{directory} holds a run; give --resume or another --out")
    print(
        f"{config.model} on {config.data}, {config.epochs} epochs, seed {config.seed}: {directory}/"
    )
    try:
        result = run(
            config,
            directory,
            data_dir=args.data_dir,
            resume=args.resume,
            tensorboard=args.tensorboard,
            device=args.device,
        )
    except Interrupted as error:
        print(f"pyconv: {error}", file=sys.stderr)
        return error.exit_code
    print(_result(result))
    print(f"written to {directory}/: {', '.join(sorted(p.name for p in directory.iterdir()))}")
    return 0


def _eval(args: argparse.Namespace) -> int:
    from pyconv.train.run import evaluate

    print(_result(evaluate(args.directory, args.data, args.data_dir)))
    return 0


def _report(args: argparse.Namespace) -> int:
    from pyconv.train.report import report

    print(f"written to {report(args.directory, args.data_dir)}")
    return 0


def _export(args: argparse.Namespace) -> int:
    import json

    from pyconv.onnx import export
    from pyconv.train.run import Trained

    trained = Trained(args.directory)
    shape = (1, trained.image[0], *trained.size)
    names = ("model", "data", "classes", "standardize", "mean", "std")  # what a caller must know
    known = {name: trained.config[name] for name in names if name in trained.config}
    export(trained.net, args.file, shape, metadata={n: json.dumps(v) for n, v in known.items()})
    print(f"written to {args.file}: reads float32 (N, {', '.join(map(str, shape[1:]))})")
    return 0


def _download(args: argparse.Namespace) -> int:
    from pyconv import data

    data.download(args.name, args.data_dir)
    print(f"{args.name}: {len(data.load(args.name, 'train', args.data_dir))} training images")
    return 0


def _predict(args: argparse.Namespace) -> int:
    from pyconv.train.run import Trained

    trained = Trained(args.directory)
    width = max(map(len, args.images))
    for file, shares in zip(args.images, trained.classify(args.images), strict=True):
        best = sorted(range(len(shares)), key=lambda k: -shares[k])[:3]
        guesses = "  ".join(f"{trained.classes[k]} {100 * shares[k]:5.1f} %" for k in best)
        print(f"{file:<{width}}  {guesses}")
    return 0


def _summary(args: argparse.Namespace) -> int:
    from pyconv.nn.models import CATALOGUE
    from pyconv.train.run import Trained

    if args.model in CATALOGUE:
        model = CATALOGUE[args.model]
        channels = args.channels or 1
        net, shape = model.build(args.classes, channels), (1, channels, *model.size)
    elif Path(args.model).is_dir():
        trained = Trained(Path(args.model))
        net, shape = trained.net, (1, trained.image[0], *trained.size)
    else:
        raise ValueError(f"{args.model!r} is no run and none of {', '.join(CATALOGUE)}")
    print(net.summary(shape))
    return 0


def _info(args: argparse.Namespace) -> int:
    import pyconv

    pyconv.show_config()
    return 0


def _result(found: dict[str, float]) -> str:
    accuracy = f"test accuracy {100 * found['accuracy']:.2f} %, " if "accuracy" in found else ""
    return f"{accuracy}test loss {found['loss']:.4f}"


def _free(model: str, data: str) -> Path:
    """The first of runs/MODEL-DATA, runs/MODEL-DATA-2, ... that does not exist."""
    name = f"{model}-{Path(data.removeprefix('folder:')).name}"
    number = 1
    while (path := Path("runs") / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path


def _toml_options(path: Path) -> list[str]:
    import tomllib

    with open(path, "rb") as file:
        table = tomllib.load(file)
    options: list[str] = []
    for name, value in table.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{option}" if value else f"--no-{option}")
            continue
        for one in value if name == "group" and isinstance(value, list) else [value]:
            if isinstance(one, bool) or not isinstance(one, str | int | float):
                raise ValueError(f"{path}: {name} must be a string or a number, got {value!r}")
            options.append(f"--{option}={one}")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
