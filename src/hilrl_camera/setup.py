from setuptools import find_packages, setup

setup(
    name="hilrl_camera",
    version="0.1.0",
    description="USB cameras as ROS image topics.",
    maintainer="hilrl developers",
    maintainer_email="maintainers@hilrl.org",
    license="Apache-2.0",
    packages=find_packages(include=["hilrl_camera", "hilrl_camera.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/hilrl_camera"]),
        ("share/hilrl_camera", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    entry_points={"console_scripts": ["camera = hilrl_camera.camera_node:main"]},
)
