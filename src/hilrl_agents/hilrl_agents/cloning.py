"""How much an actor that learns from values still imitates: options and schedule, the same for every algorithm."""

from dataclasses import dataclass

from hilrl_agents.config import option


@dataclass(frozen=True)
class CloningOptions:
    """When the actor begins to follow the values, and what holds it near what it was taught."""

    critic_warmup: int = option(
        500,
        "Updates in which the actor only imitates (interventions too) while the critic learns: an untrained "
        "critic would lead it away from what it was taught; a warm-started actor rests meanwhile (WSRL)",
        "updates",
        low=0,
    )
    bc_loss_weight: float = option(
        0.1,
        "Behaviour cloning in the actor's loss: of what a person showed and, where nobody showed anything, of the "
        "policy that it was warm-started from; 0 for none",
        low=0,
    )
    bc_loss_decay: int = option(
        0,
        "Updates after critic_warmup over which bc_loss_weight falls to bc_loss_weight_end, linearly; 0: it stays",
        "updates",
        low=0,
    )
    bc_loss_weight_end: float = option(
        0.0,
        "Where bc_loss_weight ends with bc_loss_decay: less lets the policy leave what it was taught",
        low=0,
    )


def cloning_weight(config: CloningOptions, updates: int) -> float:
    """Weight of the cloning loss after so many updates: from bc_loss_weight to bc_loss_weight_end, linearly."""
    if not config.bc_loss_decay:
        return config.bc_loss_weight
    done = min(1.0, max(0, updates - config.critic_warmup) / config.bc_loss_decay)
    return config.bc_loss_weight + done * (config.bc_loss_weight_end - config.bc_loss_weight)
