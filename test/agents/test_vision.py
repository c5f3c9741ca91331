"""Learning from images: frozen encoders, cached features, ResNet weights from a file."""

import numpy as np
import pytest
import torch
from agent_data import add_episode, observation
from torch import nn

from hilrl_agents import (
    CheckpointError,
    ConfigError,
    PolicySpec,
    ReplayBuffer,
    load_checkpoint,
    make_agent,
    sample_mixed,
    save_checkpoint,
)
from hilrl_agents.augmentation import random_colors
from hilrl_agents.resnet import ResNet, read_weights

SPEC = PolicySpec(2, 2, {"front": (32, 40, 3), "wrist": (16, 16, 3)})
SMALL = {"batch_size": 8, "hidden": [16], "precision": "float32", "n_step": 2, "encoder_refresh": 2}
SMALL |= {"encoder_refresh_updates": 1, "image_channels": 4, "image_features": 5}


class BasicBlock(nn.Module):
    """torchvision's, by names and arithmetic."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if stride > 1:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x):
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + (self.downsample(x) if hasattr(self, "downsample") else x))


class Reference(nn.Module):
    """A ResNet of basic blocks as torchvision builds it, with its classifier."""

    def __init__(self, blocks):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for stage, width in enumerate((64, 128, 256, 512), 1):
            strides = [1 if stage == 1 else 2] + [1] * (blocks - 1)
            sizes = [inputs] + [width] * (blocks - 1)
            layer = [BasicBlock(size, width, stride) for size, stride in zip(sizes, strides, strict=True)]
            setattr(self, f"layer{stage}", nn.Sequential(*layer))
            inputs = width
        self.fc = nn.Linear(512, 10)

    def forward(self, images):
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = ((images / 255 - mean) / std).permute(0, 3, 1, 2)
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def reference(blocks=1, seed=0):
    """Random weights and random statistics of the normalisations."""
    torch.manual_seed(seed)
    net = Reference(blocks).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet10.pth"
    torch.save(reference().state_dict(), path)
    return path


@pytest.fixture
def buffers(tmp_path):
    made = [ReplayBuffer(tmp_path / name, SPEC, 40) for name in ("online", "offline")]
    for number, buffer in enumerate(made):  # the policy acts in the first, a person in the second
        add_episode(buffer, 1, 3 * number + 1, 7, "terminated", controller=number)
        add_episode(buffer, 8, 3 * number + 2, 7, "truncated", controller=number)
    yield made
    for buffer in made:
        buffer.close()


def draw(agent, buffers, seed=0, features=True):
    rng = np.random.default_rng(seed)
    return sample_mixed(*buffers, 16, rng, n_step=agent.n_step, features=agent.features if features else None)


def check_cache(agent, buffers):
    """What a batch holds is what the encoder makes of the images of the same draw."""
    cached, seen = draw(agent, buffers), draw(agent, buffers, features=False)
    torch.testing.assert_close(cached.action, seen.action)
    for name in ("observation", "next_observation"):
        found, images = getattr(cached, name), getattr(seen, name)["images"]
        assert "images" not in found
        with torch.no_grad():
            torch.testing.assert_close(found["features"], agent.encoder.images.frozen(images))


@pytest.mark.parametrize("encoder", ["imitation", "file"])
def test_cached_features_are_those_of_the_frames(encoder, buffers, weights):
    agent = make_agent("sac", SPEC, SMALL | {"image_encoder": str(weights) if encoder == "file" else encoder})
    check_cache(agent, buffers)
    for buffer in buffers:  # overwrites slots whose features were cached
        add_episode(buffer, 20, 9, 30, "terminated")
    check_cache(agent, buffers)


def test_every_frame_is_encoded_once_until_the_encoder_changes(buffers):
    agent = make_agent("sac", SPEC, SMALL | {"image_encoder": "imitation"})
    frames = []
    original = agent.encoder.images.frozen
    agent.encoder.images.frozen = lambda images: (frames.append(len(images["front"])), original(images))[1]
    for seed in range(20):
        draw(agent, buffers, seed)
    assert sum(frames) == 2 * (7 + 8 + 1)  # a final observation after each episode
    draw(agent, buffers)
    assert sum(frames) == 32
    agent.refresh(iter([buffers[1].sample(8, np.random.default_rng(0))] * 3))
    draw(agent, buffers)
    assert sum(frames) > 32
    check_cache(agent, buffers)


def test_an_imitation_encoder_rests_between_refreshes(buffers):
    agent = make_agent("sac", SPEC, SMALL | {"image_encoder": "imitation", "pretrain_returns": 8})
    images = lambda: [p.clone() for p in agent.encoder.images.parameters()]  # noqa: E731
    before = images()
    q = next(agent.critic.parameters()).clone()
    agent.pretrain(buffers[1].sample(8, np.random.default_rng(0), n_step=agent.pretrain_n_step))
    assert not all(map(torch.equal, before, images()))
    assert not torch.equal(q, next(agent.critic.parameters()))  # started on the demonstrations' returns
    before, due = images(), []
    for _ in range(4):
        due.append(agent.refresh_due)
        agent.update(draw(agent, buffers))
    assert due == [False, False, True, False]
    assert all(map(torch.equal, before, images()))


def test_the_policys_weights_bring_an_imitation_encoder_along(buffers):
    one, other = (make_agent("sac", SPEC, SMALL | {"image_encoder": "imitation"}, seed) for seed in (1, 2))
    one.pretrain(buffers[1].sample(8, np.random.default_rng(0)))
    other.load_policy(one.policy_state())
    seen = observation(SPEC, 7)
    assert np.array_equal(one.act(seen, False), other.act(seen, False))
    check_cache(other, buffers)


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_resnet_computes_what_torchvisions_would(blocks, tmp_path):
    net = reference(blocks)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    images = torch.randint(0, 256, (2, 48, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        found = ResNet(read_weights(tmp_path / "weights.pth"), "weights.pth")(images)
        expected = net(images.float())
    assert found.shape == (2, 512, 2, 2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_checkpoint_carries_the_resnet_and_the_actor_gets_the_rest(buffers, weights, tmp_path):
    agent = make_agent("sac", SPEC, SMALL | {"image_encoder": str(weights)})
    agent.pretrain(draw(agent, buffers))
    agent.update(draw(agent, buffers))
    state = agent.policy_state()
    assert sum(tensor.numel() for tensor in state.values()) < 200_000  # not the 5 million of the ResNet
    for _ in range(2):  # the second one links the first one's file
        save_checkpoint(tmp_path / "checkpoint", agent)
    weights.rename(weights.with_name("gone.pth"))
    try:
        loaded, _ = load_checkpoint(tmp_path / "checkpoint", overrides={"image_encoder": str(weights)})
    finally:
        weights.with_name("gone.pth").rename(weights)
    seen = observation(SPEC, 7)
    assert np.array_equal(loaded.act(seen, False), agent.act(seen, False))
    for one in (agent, loaded):
        one.update(draw(one, buffers))
    assert np.array_equal(loaded.act(seen, True, 1), agent.act(seen, True, 1))


def test_weights_trained_on_another_resnet_are_refused(weights, tmp_path):
    torch.save(reference(seed=1).state_dict(), tmp_path / "other.pth")
    agent = make_agent("sac", SPEC, SMALL | {"image_encoder": str(weights)})
    other = make_agent("sac", SPEC, SMALL | {"image_encoder": str(tmp_path / "other.pth")})
    with pytest.raises(ValueError, match=r"belong to another image encoder than .*other\.pth; give the file"):
        other.load_policy(agent.policy_state())


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda w: w.pop("layer3.0.conv2.weight"), r"lacks 'layer3.0.conv2.weight' \(256, 256, 3, 3\)"),
        (lambda w: w.update({"conv1.weight": w["conv1.weight"][:32]}),
         r"'conv1.weight' has shape \(32, 3, 7, 7\), expected \(64, 3, 7, 7\)"),
        (lambda w: w.update({"layer1.0.conv3.weight": torch.zeros(1)}),
         r"has 'layer1.0.conv3.weight', which a ResNet of basic blocks \(10, 18, 34\)"),
        (lambda w: w.update({"conv1.weight": "text"}), r"is no state dict"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_one_clear_sentence(change, sentence, weights, tmp_path):
    tensors = torch.load(weights, weights_only=True)
    change(tensors)
    torch.save(tensors, tmp_path / "resnet.pth")
    with pytest.raises(ConfigError, match=rf"image_encoder: .*resnet\.pth:? {sentence}"):
        make_agent("sac", SPEC, {"image_encoder": str(tmp_path / "resnet.pth")})


def test_a_missing_a_damaged_and_a_dangerous_file_are_refused(tmp_path):
    def sentence(name):
        with pytest.raises(ConfigError) as caught:
            make_agent("sac", SPEC, {"image_encoder": str(tmp_path / name)})
        return str(caught.value)

    assert "cannot be read (No such file or directory); expected trained, imitation or a file" in sentence(
        "no.pth"
    )
    (tmp_path / "damaged.safetensors").write_bytes(b"not a safetensors file")
    assert "damaged.safetensors is damaged" in sentence("damaged.safetensors")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")  # a pickled object
    assert "module.pth is no plain state dict of tensors" in sentence("module.pth")


def test_colours_change_within_their_bounds_and_each_image_on_its_own():
    images = torch.full((50, 4, 4, 3), 100, dtype=torch.uint8)
    changed = random_colors(images, 0.2, torch.Generator().manual_seed(0)).int()
    assert (changed == changed[:, :1, :1]).all()  # the same everywhere in an image
    assert len({tuple(pixel.tolist()) for pixel in changed[:, 0, 0]}) == 50
    assert 100 - 20 - 26 <= changed.min() < 90 and 110 < changed.max() <= 100 + 20 + 26


def test_images_reach_the_policy(buffers):
    for encoder in ("trained", "imitation"):
        agent = make_agent("sac", SPEC, SMALL | {"image_encoder": encoder})
        seen = observation(SPEC, 7)
        rng = np.random.default_rng(0)
        other = {name: rng.integers(0, 256, shape, np.uint8) for name, shape in SPEC.cameras.items()}
        assert not np.array_equal(agent.act(seen, False), agent.act(seen | {"images": other}, False))


def test_a_damaged_checkpoint_of_a_resnet_is_one_clear_sentence(weights, tmp_path):
    agent = make_agent("sac", SPEC, SMALL | {"image_encoder": str(weights)})
    save_checkpoint(tmp_path / "checkpoint", agent)
    (tmp_path / "checkpoint" / "encoder.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors is damaged"):
        load_checkpoint(tmp_path / "checkpoint")


def test_a_policy_that_sees_with_a_resnet_is_one_to_start_from(weights):
    spec = PolicySpec(SPEC.state_dim, SPEC.action_dim, SPEC.cameras, horizon=2)
    prior = make_agent("flow", spec, {"hidden": [8], "image_encoder": str(weights)}, seed=1)
    agent = make_agent("qc", spec, {"critic_hidden": [8]}, prior=prior)
    seen = observation(spec, 7)
    np.testing.assert_array_equal(agent.act(seen, False, 3), prior.act(seen, False, 3))
    sac = make_agent("sac", SPEC, {"hidden": [8], "image_encoder": str(weights)})
    again = make_agent("sac", SPEC, {}, prior=sac)
    np.testing.assert_array_equal(again.act(seen, False), sac.act(seen, False))


@pytest.mark.parametrize("name", ["sac", "qc", "tdmpc2"])
def test_only_over_a_prior_images_are_seen_with_the_priors_eyes(name):
    with pytest.raises(ConfigError, match=rf"{name}\.image_encoder: is prior, which ibrl and residual alone"):
        make_agent(name, SPEC, {"image_encoder": "prior"})
