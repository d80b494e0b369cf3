from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import lpips
import pytest
import torch
import torchvision
from pytorch_fid import inception

from latentsync.errors import WeightsError
from latentsync.metrics.networks import load_inception, load_lpips


def no_download(*_: object, **__: object) -> None:
    raise AssertionError("something is downloaded")


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    with (
        mock.patch("torch.hub.load_state_dict_from_url", no_download),
        mock.patch("torch.utils.model_zoo.load_url", no_download),
    ):
        yield


def test_inception_is_pytorch_fids_own(tmp_path: Path) -> None:
    """With random weights in the layout of the released file, large enough that something comes out."""
    weights: dict[str, torch.Tensor] = {}

    def drawn(*_: object, **__: object) -> dict[str, torch.Tensor]:
        return weights

    with (
        mock.patch.object(inception, "load_state_dict_from_url", drawn),
        mock.patch.object(
            torch.nn.Module, "load_state_dict", lambda model, _: weights.update(model.state_dict())
        ),
    ):
        own = inception.InceptionV3().eval()
    generator = torch.Generator().manual_seed(0)
    for key, tensor in weights.items():
        if key.endswith("conv.weight"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5)
    path = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(weights, path)
    network = load_inception(path)
    images = torch.rand(1, 3, 64, 64, generator=generator)
    enlarged = torch.nn.functional.interpolate(images, (299, 299), mode="bilinear", align_corners=False)
    with torch.inference_mode():
        expected, found = own(images)[0], network(enlarged)[0]
    assert expected.shape == (1, 2048, 1, 1)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected)
    assert inception.load_state_dict_from_url is not drawn


@pytest.fixture(scope="module")
def backbone() -> torch.nn.Module:
    with torch.device("meta"):
        features = torchvision.models.vgg16(weights=None).features.to_empty(device="cpu")
    for tensor in features.parameters():
        torch.nn.init.uniform_(tensor, -0.05, 0.05, generator=torch.Generator().manual_seed(len(tensor)))
    return features


def test_lpips_has_the_given_backbone_and_its_own_linear_layers(
    tmp_path: Path, backbone: torch.nn.Module
) -> None:
    path = tmp_path / "vgg16-397923af.pth"
    tensors = {f"features.{key}": tensor for key, tensor in backbone.state_dict().items()}
    torch.save(tensors | {"classifier.0.bias": torch.zeros(3)}, path)
    network = load_lpips(path)
    one, other = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    # LPIPS by its definition: differences of normalised features behind five layers, weighted by channel.
    linear = torch.load(Path(lpips.__file__).parent / "weights/v0.1/vgg.pth", map_location="cpu")
    shift = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]
    expected = torch.zeros(2)
    hidden = [(one - shift) / scale, (other - shift) / scale]
    with torch.inference_mode():
        for number, layer in enumerate(backbone.children()):
            hidden = [layer(each.clone()) for each in hidden]
            if number in (3, 8, 15, 22, 29):
                unit = [each / (each.norm(dim=1, keepdim=True) + 1e-10) for each in hidden]
                weights = linear[f"lin{(3, 8, 15, 22, 29).index(number)}.model.1.weight"]
                expected += ((unit[0] - unit[1]) ** 2 * weights).sum(1).mean((1, 2))
        found = network(one, other).flatten()
    torch.testing.assert_close(found, expected)
    assert network(one, one).abs().max() == 0


@pytest.mark.parametrize("load", [load_inception, load_lpips])
def test_weights_of_another_network_are_refused(load: object, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"features.0.weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="does not fit"):
        load(path)  # type: ignore[operator]
