"""Write public architectures with random weights as ONNX: shapes and speed, not accuracy.

``python models/architectures.py resnet50 resnet50.onnx``. Classes and configurations are those of
`transformers`; nothing is downloaded. Importing this module needs torch and transformers.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # says 30 times that torchvision is absent
sys.path.insert(0, str(Path(__file__).resolve().parent))

try:
    import torch
    import transformers
    from export import export_model
    from torch import Tensor, nn
except ImportError as error:
    if __name__ != "__main__":
        raise
    sys.exit(f"architectures.py needs {error.name}: pip install 'qcompiler[models]'")

IMAGE = 224
TOKENS = 128


@dataclass(frozen=True)
class Architecture:
    """How to build one model: its transformers class and its configuration.

    Attributes:
        model: Class with a ``logits`` output.
        config: Makes the configuration.
        text: Takes token ids instead of images.
    """

    model: type[nn.Module]
    config: Callable[[], transformers.PretrainedConfig]
    text: bool = False


def _vit(config: type, width: int) -> Callable[[], transformers.PretrainedConfig]:
    """Return the configuration of a 12-layer ViT or DeiT with heads of 64 channels."""
    return lambda: config(
        hidden_size=width,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        num_labels=1000,
    )


ARCHITECTURES: dict[str, Architecture] = {
    "resnet50": Architecture(
        transformers.ResNetForImageClassification,
        lambda: transformers.ResNetConfig(num_labels=1000),
    ),
    "mobilenet_v2": Architecture(
        transformers.MobileNetV2ForImageClassification,
        lambda: transformers.MobileNetV2Config(num_labels=1000),
    ),
    "vit_tiny": Architecture(
        transformers.ViTForImageClassification, _vit(transformers.ViTConfig, 192)
    ),
    "deit_t": Architecture(
        transformers.DeiTForImageClassification, _vit(transformers.DeiTConfig, 192)
    ),
    "deit_s": Architecture(
        transformers.DeiTForImageClassification, _vit(transformers.DeiTConfig, 384)
    ),
    "deit_b": Architecture(
        transformers.DeiTForImageClassification, _vit(transformers.DeiTConfig, 768)
    ),
    "swin_t": Architecture(
        transformers.SwinForImageClassification,
        lambda: transformers.SwinConfig(num_labels=1000),
    ),
    "bert_base": Architecture(
        transformers.BertForSequenceClassification,
        lambda: transformers.BertConfig(num_labels=2),
        text=True,
    ),
}


class ImageLogits(nn.Module):
    """A transformers image model as a function from a tensor to a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, float32 [B, classes], of images [B, 3, 224, 224]."""
        return self.model(pixel_values=x).logits


class TextLogits(nn.Module):
    """A transformers text model as a function from tensors to a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Return the logits, float32 [B, classes], of tokens [B, T]; mask 0 is padding."""
        # Left to transformers, the mask is gathered element by element.
        visible = attention_mask[:, None, None, :] != 0
        bias = torch.where(visible, 0.0, torch.finfo(torch.float32).min)
        return self.model(
            input_ids=input_ids, attention_mask=bias, token_type_ids=token_type_ids
        ).logits


def example_inputs(name: str, batch: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Return random inputs of an architecture by ONNX input name.

    Images are ``x``, float32 [B, 3, 224, 224] with mean 0 and variance about 1: noise on a smooth
    random background, since white noise alone averages out in a deep network and makes all images
    alike. Text is ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64 [B, 128]; the
    last quarter is padding.

    Raises:
        KeyError: ``name`` is not in ``ARCHITECTURES``.
    """
    generator = torch.Generator().manual_seed(seed)
    if ARCHITECTURES[name].text:
        mask = torch.ones(batch, TOKENS, dtype=torch.int64)
        mask[:, TOKENS * 3 // 4 :] = 0
        ids = torch.randint(1000, 30000, (batch, TOKENS), generator=generator)
        return {
            "input_ids": ids * mask,
            "attention_mask": mask,
            "token_type_ids": torch.zeros_like(mask),
        }
    coarse = torch.randn(batch, 3, 7, 7, generator=generator)
    smooth = nn.functional.interpolate(coarse, (IMAGE, IMAGE), mode="bilinear")
    return {"x": smooth + 0.5 * torch.randn(batch, 3, IMAGE, IMAGE, generator=generator)}


def build(name: str, seed: int = 0) -> nn.Module:
    """Return a model with random weights, in evaluation mode, that maps tensors to logits.

    Normalizations get random gains and shifts, and what starts as zeros (biases, some position
    embeddings) small random values, since ones and zeros would hide a wrong fold. The running
    statistics of BatchNormalization are those of a random batch, so activations keep their size
    through any depth.

    Raises:
        KeyError: ``name`` is not in ``ARCHITECTURES``.
    """
    torch.manual_seed(seed)
    architecture = ARCHITECTURES[name]
    inputs = example_inputs(name, batch=8, seed=seed + 1)
    config = architecture.config()
    config._attn_implementation = (
        "eager"  # the fused kernel exports with NaN guards, Swin not at all
    )
    wrapper = TextLogits if architecture.text else ImageLogits
    model = wrapper(architecture.model(config))
    batch_norm = False
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # averages over the batches seen: here one
            batch_norm = True
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    if batch_norm:
        with torch.no_grad():
            model.train()(*inputs.values())
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=ARCHITECTURES)
    parser.add_argument("out", type=Path, help="ONNX file to write")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = build(options.name, options.seed)
    export_model(model, example_inputs(options.name, options.batch), options.out)
    print(f"{options.out}: {options.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
