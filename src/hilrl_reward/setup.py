from setuptools import find_packages, setup

setup(
    name="hilrl_reward",
    version="0.1.0",
    description="Reward terms, the reward classifier and the reward node.",
    maintainer="hilrl developers",
    maintainer_email="maintainers@hilrl.org",
    license="Apache-2.0",
    packages=find_packages(include=["hilrl_reward", "hilrl_reward.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/hilrl_reward"]),
        ("share/hilrl_reward", ["package.xml"]),
    ],
    install_requires=["setuptools", "safetensors", "torch>=2.4"],
    zip_safe=True,
    entry_points={
        "console_scripts": [
            "reward = hilrl_reward.reward_node:main",
        ],
    },
)
