"""Runs in lerobot's environment: writes a small SmolVLA with untrained weights, and what it does at an observation."""

import sys
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.utils.control_utils import predict_action
from policies import ACTION, CAMERA1, FRONT, RENAMED, SEED, STATE, statistics
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

TASK = "pick up the cube"
MARKS = {
    "fake_image_token": "<fake_token_around_image>", "image_token": "<image>", "global_image_token": "<global-img>",
}  # fmt: skip
WORDS = ["<pad>", "<unk>", "<end>", "\n", *MARKS.values(), *TASK.split()]


def write_language_model(folder):
    """What SmolVLA looks up by name on the hub: sizes, and a vocabulary that knows the task."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", extra_special_tokens=MARKS
    )  # fmt: skip
    SmolVLMProcessor(SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor()).save_pretrained(folder)
    text = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": len(WORDS), "pad_token_id": 0,
    }  # fmt: skip
    seen = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64,
        "patch_size": 16,
    }  # fmt: skip
    sizes = {"scale_factor": 2, "pad_token_id": 0, "image_token_id": WORDS.index("<image>")}
    SmolVLMConfig(text_config=text, vision_config=seen, **sizes).save_pretrained(folder)


def write(root):
    """Write pretrained_model, and example.npz with an observation and the actions of its chunk that are executed."""
    torch.manual_seed(0)
    write_language_model(root / "language_model")
    state, image = PolicyFeature(FeatureType.STATE, (6,)), PolicyFeature(FeatureType.VISUAL, (3, 48, 64))
    config = SmolVLAConfig(
        input_features={STATE: state, CAMERA1: image},
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (6,))},
        vlm_model_name=str(root / "language_model"), device="cpu", push_to_hub=False, chunk_size=8, n_action_steps=4,
        resize_imgs_with_padding=(64, 64), num_vlm_layers=2, num_steps=3, empty_cameras=1, tokenizer_max_length=16,
    )  # fmt: skip
    policy = SmolVLAPolicy(config).eval()
    policy.save_pretrained(root / "pretrained_model")
    shapes = {**config.input_features, **config.output_features}
    before, after = make_pre_post_processors(config, dataset_stats=statistics(shapes))
    before.steps[0].rename_map = RENAMED
    before.save_pretrained(root / "pretrained_model")
    after.save_pretrained(root / "pretrained_model")
    rng = np.random.default_rng(0)
    now = {
        STATE: rng.uniform(-0.3, 0.6, 6).astype(np.float32),
        FRONT: rng.integers(0, 256, (48, 64, 3), np.uint8),
    }
    told = (policy, torch.device("cpu"), before, after, False, TASK)
    torch.manual_seed(SEED)
    chunk = [predict_action(dict(now), *told).numpy() for _ in range(config.n_action_steps)]
    np.savez(root / "example.npz", chunk=np.concatenate(chunk), **{name: v[None] for name, v in now.items()})


if __name__ == "__main__":
    write(Path(sys.argv[1]) / "smolvla")
