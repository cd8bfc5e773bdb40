"""Steadies the stylized frames of a video: optical flow carries the last result along to the next frame.

After Ruder et al. 2016 (arXiv 1604.08610), who optimize each frame from the warped one before. Here the frame that a net
made and the warped result are mixed, which takes milliseconds.
"""

import numpy as np

from core.cli import UserError

try:
    import cv2
except ImportError:
    cv2 = None

FLOW_SIDE = 320  # pixels: the long side of the pictures between which the flow is estimated
LEAST_SIDE = 16  # pixels: DIS compares patches of 8
# Gray levels, 0..255: how much a pixel may differ from the one that it is said to come from; half the weight at the middle
LEAST_CHANGE, MOST_CHANGE = 8.0, 24.0
CUT = 0.2  # when the flow is reliable in less than this share of the picture, a new scene has begun


def check_installed():
    """Raises UserError when OpenCV is missing."""
    if cv2 is None:
        raise UserError("--stability needs OpenCV: pip install -r requirements-video.txt, or use --stability 0")


class Stabilizer:
    """Mixes each result with the one before, warped to fit, where the flow between the two frames is reliable.

    Attributes:
      strength: 0, the new result alone, to 1, where reliable the warped one alone.
      result: the last mixed result, [H,W,3] float32; None before the first.
    """

    def __init__(self, strength):
        check_installed()
        self.strength, self.result, self._small = strength, None, None
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def start(self, frame, result):
        """Makes a frame [h,w,3] uint8 and its result [H,W,3] the ones before the next."""
        self._small, self.result = reduce(frame), np.asarray(result, np.float32)

    def __call__(self, frame, result):
        """The steadied result for the next frame: [h,w,3] uint8 and [H,W,3] 0..255 -> [H,W,3] float32."""
        before, last = self._small, self.result
        self.start(frame, result)
        if last is None or not self.strength or last.shape != self.result.shape:
            return self.result
        flow, reliable = self.estimate(before, self._small)
        if reliable.mean() >= CUT:
            height, width = last.shape[:2]
            mixed = warp(last, resize_flow(flow, width, height))
            mixed -= self.result
            mixed *= cv2.resize(self.strength * reliable, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
            mixed += self.result
            self.result = mixed
        return self.result

    def estimate(self, before, after):
        """(flow [h,w,2] from the frame `after` back to the one `before`, its reliability [h,w] 0..1), both float32.

        Two frames [h,w] uint8. Unreliable is what the flow there and back does not bring to the same place, what comes from
        outside of the picture, and what looks different from where it comes from.
        """
        (height, width), least = after.shape, LEAST_SIDE
        if min(height, width) < least:
            missing = [(0, max(0, least - side)) for side in (height, width)]
            before, after = (np.pad(frame, missing, mode="edge") for frame in (before, after))
        back, forth = self._flow.calc(after, before, None), self._flow.calc(before, after, None)
        places = add_grid(back)
        forth = cv2.remap(forth, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        source = cv2.remap(before, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        limit = 0.01 * ((back**2).sum(2) + (forth**2).sum(2)) + 0.5  # as Ruder et al. have it
        last = np.float32(after.shape[::-1]) - 0.5
        reliable = (((back + forth) ** 2).sum(2) < limit) & (places > -0.5).all(2) & (places < last).all(2)
        change = cv2.blur(cv2.absdiff(source, after).astype(np.float32), (3, 3))
        similar = np.clip((MOST_CHANGE - change) / (MOST_CHANGE - LEAST_CHANGE), 0, 1)
        weight = cv2.blur(cv2.erode(similar * reliable, np.ones((3, 3), np.uint8)), (3, 3))
        return back[:height, :width], weight[:height, :width]


def reduce(frame):
    """A frame [h,w,3] RGB uint8 as the flow is estimated on: gray, [h',w'] uint8, its long side at most FLOW_SIDE."""
    height, width = frame.shape[:2]
    scale = min(1.0, FLOW_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = frame if scale == 1 else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)


def resize_flow(flow, width, height):
    """A flow [h,w,2] for pictures of another size: [height,width,2]."""
    resized = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR)
    resized *= np.float32([width / flow.shape[1], height / flow.shape[0]])
    return resized


def warp(picture, flow):
    """A picture [H,W] or [H,W,C] whose pixel at x is the one of `picture` at x + flow; flow [H,W,2] float32."""
    # Cubic: a result is warped again and again, and linear interpolation would blur it.
    return cv2.remap(picture, add_grid(flow), None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def add_grid(flow):
    """Where each pixel of a flow [H,W,2] float32 leads: x + flow, the same shape."""
    height, width = flow.shape[:2]
    places = flow.copy()
    places[..., 0] += np.arange(width, dtype=np.float32)
    places[..., 1] += np.arange(height, dtype=np.float32)[:, None]
    return places
