import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hilrl_agents.augmentation import random_shift
from hilrl_agents.networks import EnsembleMLP, ImageEncoder, StateNormalizer, squash
from hilrl_agents.optim import FlatAdam, minimise


def perturbed(net):
    with torch.no_grad():
        for weight in net.weights:
            weight.add_(0.1 * torch.randn_like(weight))
    return net


def by_autograd(net, member, x):
    """The member as ordinary torch operations, for one member at a time."""
    *hidden, weight, bias = (w[member] for w in net.weights)
    for w, offset in zip(hidden[::2], hidden[1::2], strict=True):
        x = torch.relu(F.layer_norm(x @ w, (w.shape[1],)) + offset)
    return x @ weight.T + bias


@pytest.mark.parametrize("hidden", [(16, 12), (16,), ()])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("outputs", [1, 4, 7])
def test_batched_ensemble_equals_a_loop_over_members_in_values_and_gradients(members, outputs, hidden):
    torch.manual_seed(0)
    net = perturbed(EnsembleMLP(members, 7, hidden, outputs))
    inputs = [torch.randn(5, size, requires_grad=True) for size in (4, 3)]
    batched = net(*inputs)
    looped = torch.stack([by_autograd(net, m, torch.cat(inputs, 1)) for m in range(members)])
    torch.testing.assert_close(batched, looped)
    cotangent = torch.randn_like(batched)
    leaves = [*inputs, *net.weights]
    found = torch.autograd.grad((batched * cotangent).sum(), leaves)
    expected = torch.autograd.grad((looped * cotangent).sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_frozen_passes_gradients_to_the_inputs_only():
    net = perturbed(EnsembleMLP(2, 3, (8, 8), 1))
    x, action = torch.randn(4, 2), torch.randn(4, 1, requires_grad=True)
    frozen = net(x, action, frozen=True)
    torch.testing.assert_close(frozen, net(x, action))
    (gradient,) = torch.autograd.grad(frozen.sum(), [action])
    (expected,) = torch.autograd.grad(net(x, action).sum(), [action])
    torch.testing.assert_close(gradient, expected)
    with pytest.raises(RuntimeError, match="appears to not have been used in the graph"):
        torch.autograd.grad(net(x, action, frozen=True).sum(), list(net.weights))


def test_bfloat16_stays_close_to_float32():
    torch.manual_seed(0)
    exact, low = EnsembleMLP(2, 24, (256, 256), 1), EnsembleMLP(2, 24, (256, 256), 1, bf16=True)
    low.load_state_dict(exact.state_dict())
    x = torch.randn(256, 24)
    difference = (exact(x) - low(x)).abs().max()
    assert 0 < difference < 0.02  # outputs have a standard deviation of about 0.4
    gradients = [torch.autograd.grad(net(x).square().mean(), list(net.weights)) for net in (exact, low)]
    for a, b in zip(*gradients, strict=True):
        assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.999


def test_squash_is_the_density_of_the_squashed_variable():
    mean, log_std = torch.tensor([[0.3]]), torch.tensor([[-0.5]])
    action, log_density = squash(mean, log_std, torch.tensor([[0.7]]))
    raw = 0.3 + math.exp(-0.5) * 0.7
    gaussian = math.exp(-0.5 * 0.7**2) / (math.exp(-0.5) * math.sqrt(2 * math.pi))
    assert action.item() == pytest.approx(math.tanh(raw))
    assert log_density.item() == pytest.approx(math.log(gaussian / (1 - math.tanh(raw) ** 2)), rel=1e-5)
    _, saturated = squash(torch.tensor([[20.0]]), log_std, torch.zeros(1, 1))
    assert torch.isfinite(saturated).all()


def test_flat_adam_is_adam():
    torch.manual_seed(0)
    nets = [torch.nn.Linear(3, 2) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    flat, plain = FlatAdam([nets[0]], 1e-2), torch.optim.Adam(nets[1].parameters(), 1e-2)
    for _ in range(5):
        x = torch.randn(4, 3)
        minimise(nets[0](x).square().mean(), flat, clip=0.3)
        plain.zero_grad()
        nets[1](x).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(nets[1].parameters(), 0.3)
        plain.step()
    torch.testing.assert_close(nets[0].weight, nets[1].weight)
    torch.testing.assert_close(nets[0].bias, nets[1].bias)


def test_parameters_are_their_running_average_within_averaged_and_nowhere_else():
    net = torch.nn.Linear(1, 1, bias=False)
    optimizer, average = FlatAdam([net], 0.1, average=0.5), None
    with optimizer.averaged():
        begun = net.weight.item()
    for step in range(1, 5):
        minimise((net.weight - 3).square().sum(), optimizer)
        share, newest = max(0.5, step**-0.75), net.weight.item()
        average = newest if step == 1 else average + share * (newest - average)
        with optimizer.averaged():
            assert net.weight.item() == pytest.approx(average)
        assert net.weight.item() == newest
    assert begun < average < newest
    other = FlatAdam([torch.nn.Linear(1, 1, bias=False)], 0.1, average=0.5)
    other.load_state(optimizer.state())
    with other.averaged():
        assert other.flat.item() == pytest.approx(average)
    optimizer.begin_anew()
    with optimizer.averaged():
        assert net.weight.item() == newest


def test_random_shift_moves_each_image_and_repeats_borders():
    image = torch.arange(5 * 6, dtype=torch.uint8).reshape(1, 5, 6, 1).expand(64, -1, -1, 2)
    moved = random_shift(image, 2, torch.Generator().manual_seed(0))
    padded = np.pad(image[0].numpy(), ((2, 2), (2, 2), (0, 0)), mode="edge")
    windows = {padded[r : r + 5, c : c + 6].tobytes() for r in range(5) for c in range(5)}
    seen = {single.numpy().tobytes() for single in moved}
    assert seen <= windows
    assert len(seen) > 15


def test_normalizer_has_a_floor_and_a_clip():
    normalizer = StateNormalizer(2)
    normalizer.fit(torch.tensor([[0.0, 5.0], [2.0, 5.0]]), floor=0.01)
    torch.testing.assert_close(normalizer(torch.tensor([[3.0, 5.5]])), torch.tensor([[2.0, 10.0]]))
    assert normalizer(torch.tensor([[1.0, 5.05]]))[0, 1].item() == pytest.approx(5.0, rel=1e-4)


def test_image_encoder_takes_cameras_of_different_shapes_and_keeps_them_apart():
    torch.manual_seed(0)
    encoder = ImageEncoder({"a": (20, 16, 3), "b": (20, 16, 3), "c": (9, 9, 1)}, 8, 5, bf16=False)
    images = {
        name: torch.randint(0, 256, (4, *shape), dtype=torch.uint8) for name, shape in encoder.cameras.items()
    }
    features = encoder(images)
    assert features.shape == (4, 15)
    changed = encoder(images | {"b": 255 - images["b"]})
    same = (features == changed).all(0)
    assert same[:5].all() and same[10:].all() and not same[5:10].any()
