"""An OpenCV window that shows one picture after another."""

from __future__ import annotations

import cv2
import numpy as np

QUIT_KEYS = (ord("q"), 27)  # q, escape
TITLE = "groundhog browse (any key: next, q: quit)"


class Window:
    """A window to show pictures. interval: seconds between pictures; 0 waits for a key."""

    def __init__(self, interval: float) -> None:
        self._wait = max(1, round(interval * 1000)) if interval > 0 else 0

    def show(self, picture: np.ndarray) -> bool:
        """Shows a picture, (H, W, 3) uint8 RGB; returns whether to continue."""
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        cv2.imshow(TITLE, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        pressed = cv2.waitKey(self._wait)
        return pressed & 0xFF not in QUIT_KEYS if pressed >= 0 else True

    def close(self) -> None:
        cv2.destroyAllWindows()
