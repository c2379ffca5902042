# SPDX-License-Identifier: Apache-2.0
"""TensorRT's int8 calibration through Torch-TensorRT's TorchScript front end (up to 2.8), fed by the farm.

Torch-TensorRT's own classes are not used: 2.2's CacheCalibrator cannot be copied by its compiler, and gives entropy
calibration's table to the minmax calibrator.
"""

from typing import Any, Dict, Iterator, Optional

from workers.workflows.torch_trt_compat import calibrator_base


def make_calibrator(
    torch: Any, torch_tensorrt: Any, method: str, table: Optional[bytes], batches: Iterator[Any], device: Any
) -> Any:
    """A calibrator that either gives `table`, or goes through `batches` (float32, host) and keeps the table made.

    `device` is the `TorchDevice` that they are placed on.

    With a table no data is ever given. `asked` counts the batches asked for, `error` is what went wrong in here.
    """
    base: Any = calibrator_base(torch_tensorrt, method)

    class Calibrator(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.table = table
            self.asked = 0
            self.error: Optional[Exception] = None
            self._placed: Any = None

        def __deepcopy__(self, memo: Dict[int, Any]) -> Any:
            """The compiler copies its settings, and what TensorRT is bound to cannot be copied."""
            return self

        def get_batch_size(self) -> int:
            """As the library's own: the batch is in the shape of the network's input."""
            return 1

        def get_batch(self, names: Any) -> Any:
            """The address of the next batch; None at the end. An exception that left here would end the process."""
            self.asked += 1
            try:
                found = next(batches, None)
                if found is None:
                    return None
                self._placed = torch.from_numpy(found).to(device.name)
                device.synchronize()
                return [self._placed.data_ptr()]
            except Exception as error:  # noqa: BLE001 - the boundary to C++
                self.error = error
                return None

        def read_calibration_cache(self) -> bytes:
            """Empty says that there is none. The bytes are kept by this object while TensorRT reads them."""
            return self.table or b""

        def write_calibration_cache(self, made: Any) -> None:
            self.table = bytes(made)

    return Calibrator()
