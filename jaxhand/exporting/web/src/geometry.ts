/**
 * Squares around hands, 3x3 matrices, and the hand's place before the camera.
 *
 * Pixels are (x, y); integers are pixel centres. 3D is the OpenCV camera frame (x right, y down, z forward), mm.
 * Formulas and constants are those of jaxhand/hand/roi.py, jaxhand/hand/placement.py and jaxhand/data/crop.py.
 */

export type Point = [number, number];
export type Point3 = [number, number, number];
export type Box = [number, number, number, number]; // x0, y0, x1, y1 px
export type Matrix = [Point3, Point3, Point3]; // rows; the last row of cameras and pixel maps is 0 0 1

const HAND_OVER_PALM = 2.6;
const TOWARDS_FINGERS = 0.5;
const HAND_OVER_JOINTS = 2.0;
const TOWARDS_TIPS = 0.1;
const PALM_JOINTS = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18];
const PALM_WRIST = 2;
const PALM_MIDDLE_BASE = 4;
const NEAREST_MM = 50;
const ROUNDS = 3;

/** A rotated square in a picture. */
export interface Roi {
  center: Point; // px
  side: number; // px
  up: Point; // unit vector in the picture; the upward direction of the crop
}

/** The rule by which crops of a network were cut; see jaxhand/data/crop_rules.py. */
export interface CropRule {
  image_size: number; // side of the crop, px
  crop_scale: number; // side of the square / side of the box
  box_aspect: number;
  pixel_center_offset: number;
  mirror_left: boolean;
}

/** A crop of a picture. */
export interface Crop {
  A: Matrix; // pixels of the picture, flipped left to right if `mirrored` → pixels of the crop
  zoom: number; // pixels of the crop per pixel of the picture
  size: number; // side of the crop, px
  mirrored: boolean;
}

export function multiply(a: Matrix, b: Matrix): Matrix {
  return a.map((row) => [0, 1, 2].map((j) => row[0] * b[0][j] + row[1] * b[1][j] + row[2] * b[2][j])) as Matrix;
}

/** The inverse of a matrix whose last row is 0 0 1. */
export function inverse([[a, b, e], [c, d, f]]: Matrix): Matrix {
  const det = a * d - b * c;
  return [
    [d / det, -b / det, (b * f - d * e) / det],
    [-c / det, a / det, (c * e - a * f) / det],
    [0, 0, 1],
  ];
}

export function transform([[a, b, e], [c, d, f]]: Matrix, points: Point[]): Point[] {
  return points.map(([x, y]) => [a * x + b * y + e, c * x + d * y + f]);
}

/** The upright square around a picture. */
export function whole(width: number, height: number): Roi {
  return { center: [(width - 1) / 2, (height - 1) / 2], side: Math.max(width, height), up: [0, -1] };
}

/** The square around a hand, from the nine points px of its palm: two corners of the box and seven points. */
export function ofPalm(points: Point[]): Roi {
  const [[x0, y0], [x1, y1]] = points;
  const [base, wrist] = [points[PALM_MIDDLE_BASE], points[PALM_WRIST]];
  const up = unit([base[0] - wrist[0], base[1] - wrist[1]]);
  const side = Math.max(x1 - x0, y1 - y0, 1);
  const shift = TOWARDS_FINGERS * side;
  return {
    center: [(x0 + x1) / 2 + shift * up[0], (y0 + y1) / 2 + shift * up[1]],
    side: HAND_OVER_PALM * side,
    up,
  };
}

/** The square around a hand with 21 joints px. */
export function ofJoints(joints: Point[]): Roi {
  const towards = (axis: 0 | 1) =>
    joints[6][axis] / 4 + joints[10][axis] / 2 + joints[14][axis] / 4 - joints[0][axis];
  const up = unit([towards(0), towards(1)]);
  const right: Point = [-up[1], up[0]];
  const along = PALM_JOINTS.map((joint) => joints[joint]).map(
    ([x, y]): Point => [x * right[0] + y * right[1], x * up[0] + y * up[1]],
  );
  const [x0, y0, x1, y1] = boxAround(along);
  const side = Math.max(x1 - x0, y1 - y0, 1);
  const across = (x0 + x1) / 2;
  const height = (y0 + y1) / 2 + TOWARDS_TIPS * side;
  return {
    center: [across * right[0] + height * up[0], across * right[1] + height * up[1]],
    side: HAND_OVER_JOINTS * side,
    up,
  };
}

/** The crop of a square, `size` px wide. */
export function cropOfRoi({ center, side, up: [x, y] }: Roi, size: number): Crop {
  const zoom = size / side;
  const [a, b, c, d] = [-y * zoom, x * zoom, -x * zoom, -y * zoom]; // `up` becomes (0, -1)
  const middle = (size - 1) / 2;
  const A: Matrix = [
    [a, b, middle - a * center[0] - b * center[1]],
    [c, d, middle - c * center[0] - d * center[1]],
    [0, 0, 1],
  ];
  return { A, zoom, size, mirrored: false };
}

/** Directions in the frame of a crop → directions in the frame of the picture's camera. */
export function turnBack(points: Point3[], { up: [x, y] }: Roi): Point3[] {
  return points.map(([u, v, w]) => [-y * u - x * v, x * u - y * v, w]);
}

/** The upright crop of a hand in a box, by the rule of a network. */
export function cropOfBox([x0, y0, x1, y1]: Box, isRight: boolean, width: number, rule: CropRule): Crop {
  const mirrored = !isRight && rule.mirror_left;
  const side = rule.crop_scale * Math.max(rule.box_aspect * (x1 - x0), y1 - y0, 1);
  const size = rule.image_size;
  const zoom = size / side;
  const x = mirrored ? width - 1 - (x0 + x1) / 2 : (x0 + x1) / 2;
  const middle = (size - 1) / 2 + rule.pixel_center_offset;
  const A: Matrix = [
    [zoom, 0, middle - zoom * x],
    [0, zoom, middle - (zoom * (y0 + y1)) / 2],
    [0, 0, 1],
  ];
  return { A, zoom, size, mirrored };
}

/** Pixels of a picture `width` px wide → pixels of its crop. A of `Crop` starts from the flipped picture. */
export function pictureToCrop({ A, mirrored }: Crop, width: number): Matrix {
  return mirrored ? multiply(A, [[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]]) : A;
}

/** The camera of a crop: it projects a point of the mirrored hand to the pixel of the crop. */
export function cropCamera(crop: Crop, K: Matrix, width: number): Matrix {
  const camera = multiply(pictureToCrop(crop, width), K);
  return crop.mirrored ? (camera.map(([x, y, z]) => [-x, y, z]) as Matrix) : camera;
}

/** The camera of a picture with this focal length in px; the optical axis is central. */
export function centralCamera(focal: number, width: number, height: number): Matrix {
  return [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]];
}

/** Joints mm, around any origin, moved onto the rays of their pixels: mm in the camera's frame. */
export function placeOnRays(joints: Point3[], pixels: Point[], K: Matrix): Point3[] {
  const rays = transform(inverse(K), pixels);
  const [, , tz] = translation(joints, rays);
  return joints.map(([, , z], i) => [rays[i][0] * (z + tz), rays[i][1] * (z + tz), z + tz]);
}

/** The translation that moves joints onto rays (x, y, 1), by iteratively reweighted least squares. */
function translation(joints: Point3[], rays: Point[]): Point3 {
  let t: Point3 = [0, 0, 0];
  let weights = joints.map(() => 1);
  for (let round = 0; round < ROUNDS; round++) {
    let [total, sumU, sumV, sumUU, x, y, z] = [0, 0, 0, 0, 0, 0, 0]; // entries of the normal equations
    joints.forEach(([jx, jy, jz], i) => {
      const [u, v] = rays[i];
      const w = weights[i];
      const [tx, ty] = [u * jz - jx, v * jz - jy];
      total += w;
      sumU += w * u;
      sumV += w * v;
      sumUU += w * (u * u + v * v);
      x += w * tx;
      y += w * ty;
      z -= w * (u * tx + v * ty);
    });
    const [cu, cv] = [-sumU / total, -sumV / total];
    const depth = (z - cu * x - cv * y) / Math.max(sumUU - (cu * cu + cv * cv) * total, 1e-12 * total);
    t = [x / total - cu * depth, y / total - cv * depth, depth];
    weights = joints.map(([, , jz]) => 1 / Math.max(jz + depth, NEAREST_MM) ** 2);
  }
  return t;
}

export function boxAround(points: Point[]): Box {
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

/** Intersection over union of two boxes. */
export function overlap(a: Box, b: Box): number {
  const area = ([x0, y0, x1, y1]: Box) => Math.max(x1 - x0, 0) * Math.max(y1 - y0, 0);
  const both = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  return both / Math.max(area(a) + area(b) - both, 1e-9);
}

/** The mean of several arrays of points, point by point. */
export function mean<P extends number[]>(lists: P[][]): P[] {
  return lists[0].map((point, i) => point.map((_, axis) => lists.reduce((sum, list) => sum + list[i][axis], 0) / lists.length) as P);
}

function unit([x, y]: Point): Point {
  const length = Math.hypot(x, y);
  return length > 1e-6 ? [x / length, y / length] : [0, -1];
}
