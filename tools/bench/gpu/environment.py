"""What is installed, and the rates that bound everything else."""

from __future__ import annotations

TITLE = "Environment: what is there, and the rates of the device"
SECONDS = 60.0


def measure(part) -> None:
    import torch

    from foundation.measure.machine import attention_backends, matrix_rate, memory_rate

    device, size = part.device, 256 if part.rehearse else 8192
    kinds = {
        "bfloat16 products": (torch.bfloat16, "highest"),
        "TF32 products": (torch.float32, "high"),
        "float32 products": (torch.float32, "highest"),
    }
    for name, (dtype, precision) in kinds.items():
        part.case(
            name,
            lambda dtype=dtype, precision=precision: {
                "value": 1e-12 * matrix_rate(device, dtype, size, precision),
                "unit": f"TFLOP/s, side {size}",
            },
        )
    moved = 2**22 if part.rehearse else 2**32
    part.case(
        "copy in memory",
        lambda: {"value": 1e-9 * memory_rate(device, moved), "unit": f"GB/s read and written, {moved} bytes"},
    )
    for name, problem in attention_backends(device).items():
        part.row(case=f"attention: {name}", value=problem or "there")
    part.row(case="GPU JPEG decoder", value=jpeg_decoder())
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        there = torch.backends.cuda.is_flash_attention_available()
        part.row(case="sdpa: flash kernel", value="there" if there else "absent")
        part.row(case="float8 products", value="there" if (major, minor) >= (8, 9) else "not on this GPU")
        part.case("NCCL", lambda: {"value": ".".join(map(str, torch.cuda.nccl.version()))})
    part.case("compile", lambda: compiles(device, "aot_eager" if part.rehearse else "inductor"))


def jpeg_decoder() -> str:
    """Whether torchvision can decode on the GPU, by whether its extension has the operator."""
    try:
        import torch
        import torchvision.io  # noqa: F401
    except Exception as error:
        return f"torchvision cannot be imported: {type(error).__name__}"
    try:
        return "there" if torch.ops.image.decode_jpegs_cuda else "absent"
    except AttributeError:
        return "absent: this torchvision was built without it"


def compiles(device, backend: str) -> dict:
    """Seconds to compile and run a small function: inductor needs Triton on a GPU, and a C compiler."""
    import time

    import torch

    start = time.perf_counter()
    torch.compile(lambda x: (x * 2).relu().sum(), backend=backend)(torch.randn(256, 256, device=device)).item()
    return {"value": time.perf_counter() - start, "unit": f"s for a first small function by {backend}"}
