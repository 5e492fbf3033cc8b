// Boxes are [x1, y1, x2, y2].

export const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
export const inside = ([x1, y1, x2, y2], [x, y]) => x >= x1 && x <= x2 && y >= y1 && y <= y2;
export const distance = ([x1, y1], [x2, y2]) => Math.hypot(x2 - x1, y2 - y1);
export const ordered = ([x1, y1, x2, y2]) => [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
export const rounded = (box) => box.map((side) => Math.round(side * 100) / 100);
export const clamp = (value, least, most) => Math.min(Math.max(value, least), most);

// Intersection over union.
export function iou(one, other) {
  const across = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const down = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  if (across <= 0 || down <= 0) return 0;
  const common = across * down;
  return common / (area(one) + area(other) - common);
}

// Whether a box overlaps an image of this size.
export function touches([x1, y1, x2, y2], width, height) {
  return x1 < width && y1 < height && x2 > 0 && y2 > 0 && x1 < x2 && y1 < y2;
}
