"""Runs under a Python that has lerobot: loads a policy's folder and answers observations with chunks.

`lerobot_process.py` starts it, with a socket as its standard input; it ends where that ends. Either side sends eight
bytes that count (little-endian) and as many of safetensors. It imports nothing of the suite.
"""

import socket
import sys

STATE, IMAGES, ACTION = "observation.state", "observation.images", "action"


class Policy:
    """A policy with its processors.

    Args:
        folder: its pretrained_model.
        task: what it is told to do, in words.
    """

    def __init__(self, folder, task):
        import torch
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors

        self.torch, self.task = torch, task
        self.config = PreTrainedConfig.from_pretrained(folder)
        self.device = torch.device(self.config.device)
        self.policy = get_policy_class(self.config.type).from_pretrained(folder, config=self.config)
        self.before, self.after = make_pre_post_processors(
            self.config,
            pretrained_path=folder,
            preprocessor_overrides={"device_processor": {"device": self.config.device}},
        )

    def chunk(self, seed, **observations):
        """What the policy plans: seed [1], observations [frames, …] by LeRobot's names, the oldest first → [H, A]."""
        torch, cuda = self.torch, self.device.type == "cuda"
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=cuda and self.config.use_amp):
            batch = self.seen(observations)
            torch.manual_seed(int(seed[0]))
            chunk = self.policy.predict_action_chunk(batch)
            size = self.config.action_feature.shape[0]
            if chunk.ndim != 3 or chunk.shape[0] != 1 or chunk.shape[2] != size:
                raise ValueError(f"its chunk has the shape {tuple(chunk.shape)}, expected (1, H, {size})")
            actions = [self.after(chunk[:, step]) for step in range(chunk.shape[1])]
        return torch.cat(actions).float().cpu().numpy()

    def seen(self, observations):
        """The newest observation as the policy takes it; older ones go where policies of several keep them."""
        from lerobot.policies.utils import populate_queues, prepare_observation_for_inference

        self.policy.reset()
        kept = getattr(self.policy, "_queues", {})
        frames = len(observations[STATE])
        if frames > 1 and STATE not in kept:
            raise ValueError(f"nothing is known of where its {frames} observations are kept")
        for frame in range(frames):
            now = {name: values[frame] for name, values in observations.items()}
            batch = self.before(prepare_observation_for_inference(now, self.device, self.task))
            batch.pop(ACTION, None)
            if IMAGES in kept:
                batch[IMAGES] = self.torch.stack([batch[name] for name in self.config.image_features], -4)
            populate_queues(kept, batch)
        return batch


def main(folder, task):
    """Load the policy, say so, and answer until nobody asks any more."""
    del sys.path[0]  # modules beside this file have names of others
    from safetensors.numpy import load, save

    with socket.socket(fileno=0) as ours, ours.makefile("rwb") as stream:

        def answer(arrays):
            data = save(arrays)
            stream.write(len(data).to_bytes(8, "little") + data)
            stream.flush()

        try:
            policy = Policy(folder, task)
            answer({})
            while size := stream.read(8):
                answer({"chunk": policy.chunk(**load(stream.read(int.from_bytes(size, "little"))))})
        except ConnectionError:
            pass  # who asked is gone
        except Exception as error:
            import numpy as np

            text = f"{type(error).__name__}: {error}"
            answer({"error": np.frombuffer(text.encode(), np.uint8)})
            raise


if __name__ == "__main__":
    main(*sys.argv[1:])
