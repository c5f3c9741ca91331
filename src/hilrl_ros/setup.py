from setuptools import find_packages, setup

setup(
    name="hilrl_ros",
    version="0.1.0",
    description="What every hilrl node shares: contract, parameters, QoS, spinning, messages to numpy, images.",
    maintainer="hilrl developers",
    maintainer_email="maintainers@hilrl.org",
    license="Apache-2.0",
    packages=find_packages(include=["hilrl_ros", "hilrl_ros.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/hilrl_ros"]),
        ("share/hilrl_ros", ["package.xml"]),
    ],
    install_requires=["setuptools", "mujoco>=3.10", "tensorboard"],
    zip_safe=True,
)
