"""What agents share that act over an imitation policy which never changes, whatever its algorithm."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hilrl_agents.agent import Agent
from hilrl_agents.batch import Observation
from hilrl_agents.config import ConfigError
from hilrl_agents.sac import SAC, SACConfig
from hilrl_agents.spec import PolicySpec
from hilrl_agents.warm_start import WarmStart, WarmStartError


class OverPrior(SAC):
    """SAC that decides each step by itself and observes what its prior, executed as its own options say, does in it."""

    observes_prior = True

    def __init__(self, spec: PolicySpec, config: SACConfig, seed: int = 0) -> None:
        if spec.horizon != 1:
            raise ConfigError(
                f"{self.name} decides each step by itself: chunk_size is {spec.horizon}, expected 1, "
                "whatever its prior's"
            )
        super().__init__(spec, config, seed)

    @classmethod
    def starts_from(cls, prior: str) -> bool:
        """Over any policy."""
        return True

    @torch.no_grad()
    def warm_start(self, prior: Agent, freeze: Sequence[str] = ()) -> WarmStart:
        """Puts the prior beneath, and normalises the state as it does; all else is new."""
        mine, size = self.encoder.normalizer, self.spec.state_dim - self.spec.action_dim
        theirs = prior.encoder.normalizer
        copied, fresh = [], [("actor", "the prior acts beneath it")]
        beneath = self.spec.action_dim if prior.observes_prior else 0
        if len(theirs.mean) == size + beneath:  # a policy of several frames normalises them together
            mine.mean[:size], mine.std[:size] = theirs.mean[:size], theirs.std[:size]
            copied = ["encoder.normalizer.mean", "encoder.normalizer.std"]
        if self.spec.cameras and self.config.image_encoder == "prior":
            if not prior.shows_images:
                raise WarmStartError(
                    f"{self.name}.image_encoder: is prior, but '{prior.name}' does not tell what it makes of images; "
                    "expected trained, imitation or a file"
                )
            with torch.enable_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(torch.randint(2**62, (), generator=self.generator)))
                self.vision.see_through(prior)
            self.features, self.with_actor = self.vision.features, self.vision.with_values
            self.optimizers |= self.vision.optimizers
            fresh.append(("encoder.images.project", "it follows on what the prior makes of images"))
        return self._begun(prior, copied, fresh, freeze)

    def prior_action(self, observation: Observation) -> Tensor:
        """b, what the prior does: the state's last entries → [B, A]."""
        return observation["state"][:, self.spec.state_dim - self.spec.action_dim :]


def lowest_prior(agent: Agent) -> Agent:
    """The policy at the bottom: of an agent over a prior that prior's, of any other itself."""
    while agent.observes_prior and agent.prior is not None:
        agent = agent.prior
    return agent
