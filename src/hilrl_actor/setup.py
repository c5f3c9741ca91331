from setuptools import find_packages, setup

setup(
    name="hilrl_actor",
    version="0.1.0",
    description="The loop's clock, policy and episodes: observer, actor and session nodes.",
    maintainer="hilrl developers",
    maintainer_email="maintainers@hilrl.org",
    license="Apache-2.0",
    packages=find_packages(include=["hilrl_actor", "hilrl_actor.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/hilrl_actor"]),
        ("share/hilrl_actor", ["package.xml"]),
    ],
    install_requires=["setuptools", "torch>=2.4"],
    zip_safe=True,
    entry_points={
        "console_scripts": [
            "observer = hilrl_actor.observer_node:main",
            "actor = hilrl_actor.actor_node:main",
            "session = hilrl_actor.session_node:main",
        ],
    },
)
