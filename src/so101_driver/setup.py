from setuptools import find_packages, setup

setup(
    name="so101_driver",
    version="0.1.0",
    description="Driver of the SO-101: servo bus, calibration, safety, driver node, and an emulator of the bus.",
    maintainer="hilrl developers",
    maintainer_email="maintainers@hilrl.org",
    license="Apache-2.0",
    packages=find_packages(include=["so101_driver", "so101_driver.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/so101_driver"]),
        ("share/so101_driver", ["package.xml"]),
    ],
    install_requires=["setuptools", "feetech-servo-sdk==1.0.0", "pyserial"],
    zip_safe=True,
    entry_points={"console_scripts": ["driver = so101_driver.driver_node:main"]},
)
