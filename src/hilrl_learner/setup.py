from setuptools import find_packages, setup

setup(
    name="hilrl_learner",
    version="0.1.0",
    description="The learner node: stores transitions, updates, publishes weights.",
    maintainer="hilrl developers",
    maintainer_email="maintainers@hilrl.org",
    license="Apache-2.0",
    packages=find_packages(include=["hilrl_learner", "hilrl_learner.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/hilrl_learner"]),
        ("share/hilrl_learner", ["package.xml"]),
    ],
    install_requires=["setuptools", "torch>=2.4"],
    zip_safe=True,
    entry_points={
        "console_scripts": [
            "learner = hilrl_learner.learner_node:main",
        ],
    },
)
