# Everything that the commands below need is set up by themselves; docs/install.md says how.
SHELL := bash
PYTHON ?= python3
VENV := .venv/bin

# Only variables that are set are passed on, the launch file has the defaults.
SIM_ARGUMENTS = $(if $(TASK),task:=$(TASK)) $(if $(AGENT),agent:=$(AGENT)) $(if $(SEED),seed:=$(SEED)) $(ARGS)

# processes that tests run in
JOBS ?= 2

TORCH_INDEX_URL ?= https://download.pytorch.org/whl/cpu

.PHONY: help setup sim sim-vision improve improve-lerobot real-emulated test test-lerobot lint docs clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: ## set up or update the environment in .venv
	@$(PYTHON) tools/setup.py

sim: setup ## train the SO-101 in simulation: make sim TASK=pick_cube AGENT=sac SEED=0
	@$(VENV)/hilrl launch sim $(SIM_ARGUMENTS)

sim-vision: setup ## train from two cameras with a learned reward, then compare with imitation: make sim-vision SEED=0
	@$(VENV)/hilrl train --task pick_cube_vision --agent sac_vision --compare bc $(if $(SEED),--seed $(SEED)) \
	  labels:=120 demos:=60 pretrain_updates:=2000 target_success:=0.9 max_steps:=5000 $(ARGS)

# An imitation policy of so few demonstrations that it solves some 60 to 80 %; what is recorded or trained already is not
# done again.
DEMOS_pick_cube = 15
DEMOS_open_drawer = 4
DEMOS_insert_peg = 30
improve: TASK ?= pick_cube
improve: SEED ?= 0
improve: PRIOR ?= flow
improve: NAME = $(basename $(notdir $(TASK)))
improve: DEMOS ?= $(or $(DEMOS_$(NAME)),10)
improve: UPDATES ?= 3000
improve: SHOWN = improve_$(NAME)_s$(SEED)_demos_$(DEMOS)
improve: POLICY = improve_$(NAME)_s$(SEED)_$(PRIOR)_$(DEMOS)_$(UPDATES)
improve: setup ## make a mediocre imitation policy better: make improve TASK=pick_cube SEED=0 PRIOR=flow METHOD=qc ARGS=operator:=none
	@$(VENV)/hilrl record --task $(TASK) --port sim --operator scripted --episodes $(DEMOS) --run $(SHOWN) seed:=$(SEED)
	@[ -d runs/$(POLICY)/checkpoint ] || $(VENV)/hilrl bc $(PRIOR) --task $(TASK) --data runs/$(SHOWN) \
	  --updates $(UPDATES) --seed $(SEED) --run $(POLICY)
	@$(VENV)/hilrl improve runs/$(POLICY) --data runs/$(SHOWN) $(if $(METHOD),--agent $(METHOD)) --seed $(SEED) $(ARGS)

# A LeRobot user's way, from demonstrations to a policy that LeRobot's own trainer made, to a better one.
improve-lerobot: TASK ?= pick_cube_joints
improve-lerobot: SEED ?= 0
improve-lerobot: DEMOS ?= 80
improve-lerobot: STEPS ?= 1500
improve-lerobot: SHOWN = lerobot_$(basename $(notdir $(TASK)))_s$(SEED)_demos_$(DEMOS)
improve-lerobot: TRAINED = outputs/train/$(SHOWN)_act_$(STEPS)
improve-lerobot: setup .venv-lerobot/ready ## train ACT with the real lerobot, then improve it: make improve-lerobot SEED=0
	@$(VENV)/hilrl record --task $(TASK) --port sim --operator scripted --episodes $(DEMOS) --run $(SHOWN) seed:=$(SEED)
	@[ -d datasets/$(SHOWN) ] || $(VENV)/hilrl data export runs/$(SHOWN) --format lerobot --out datasets/$(SHOWN)
	@[ -d $(TRAINED)/checkpoints/last/pretrained_model ] || { rm -rf $(TRAINED) && \
	  HF_HUB_OFFLINE=1 PYTHONPATH= .venv-lerobot/bin/lerobot-train --output_dir=$(TRAINED) --seed=$(SEED) \
	    --dataset.repo_id=hilrl/$(SHOWN) --dataset.root=$(CURDIR)/datasets/$(SHOWN) --dataset.video_backend=pyav \
	    --steps=$(STEPS) --save_freq=$(STEPS) --log_freq=100 --batch_size=8 --num_workers=1 --wandb.enable=false \
	    --policy.type=act --policy.device=cpu --policy.push_to_hub=false --policy.pretrained_backbone_weights=null \
	    --policy.chunk_size=16 --policy.n_action_steps=8 --policy.dim_model=128 --policy.n_heads=4 \
	    --policy.dim_feedforward=256 --policy.n_encoder_layers=2 --policy.n_vae_encoder_layers=1 \
	    --policy.optimizer_lr=3e-4 --policy.optimizer_lr_backbone=1e-4; }
	@$(VENV)/hilrl improve $(TRAINED)/checkpoints/last/pretrained_model --task $(TASK) --seed $(SEED) $(ARGS)

real-emulated: setup ## train through driver, serial port and emulated servos, in real time
	@$(VENV)/hilrl launch real_so101 port:=emulated operator:=scripted $(SIM_ARGUMENTS)

test: ## run the tests: make test TESTS=test/cli
	@$(PYTHON) tools/setup.py --for-tests
	@. .venv/setup.bash && python -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder --cov=src --cov-report=term:skip-covered $(TESTS)

test-lerobot: setup .venv-lerobot/ready ## test datasets and policies with the real lerobot, in an environment of its own
	@. .venv/setup.bash && HILRL_LEROBOT_PYTHON=$(CURDIR)/.venv-lerobot/bin/python python -m pytest test_lerobot

# lerobot's Python packages are not those of the suite, nor of a ROS 2 that is sourced (PYTHONPATH); torchvision 0.23 is the
# last one that reads videos without FFmpeg
.venv-lerobot/ready:
	@$(PYTHON) -m venv --clear .venv-lerobot
	@url=$(TORCH_INDEX_URL); \
	  $(PYTHON) -c "from urllib.request import urlopen; urlopen('$$url/torch/', timeout=10)" 2> /dev/null || url=; \
	  PYTHONPATH= .venv-lerobot/bin/python -m pip install --quiet $${url:+--extra-index-url $$url} \
	    lerobot[smolvla]==0.4.4 torch==2.8.0 torchvision==0.23.0
	@touch $@

lint: setup ## check style and format
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .

docs: setup ## write docs/reference from the code
	@$(VENV)/python tools/reference.py

clean: ## remove the environment and everything built in it
	rm -rf .venv .venv-lerobot .setup-log .setup-lock
