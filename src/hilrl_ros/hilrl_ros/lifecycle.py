"""What lifecycle nodes share; apart from the others, which need not import rclpy.lifecycle at their start."""

import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import LifecycleNode


def survive_invalid_transitions(node: LifecycleNode) -> None:
    """Answer a lifecycle transition that the node's state does not allow with a failure; rclpy would end the node."""
    service = node._service_change_state
    change = service.callback

    def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
        try:
            return change(request, response)
        except rclpy._rclpy_pybind11.RCLError:
            state = node._state_machine.current_state[1]
            name = request.transition.label or f"number {request.transition.id}"
            node.get_logger().error(f"transition {name} refused: the node is {state}")
            response.success = False
            return response

    service.callback = answer
