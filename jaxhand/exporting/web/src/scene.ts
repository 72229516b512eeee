/** The hands in 3D. Turned by dragging, by two fingers, by the wheel, and by keys. */

import * as THREE from "three";

import type { Hand } from "./finder";
import { colorOf } from "./overlay";
import type { Settings } from "./settings";

const JOINT_MM = 5; // radius
const BONE_MM = 3.2;
const GRID_MM = 200;
const MOST_HANDS = 8;
const VIEW = { azimuth: 0.35, elevation: 0.3, zoom: 1 }; // radians, and a factor of the distance; at the start
const AWAY = 4; // distance of the camera / radius of the sphere around the hands
const KEYS: Record<string, [number, number, number]> = { // what is added to azimuth and elevation, factor of the distance
  ArrowLeft: [-0.1, 0, 1],
  ArrowRight: [0.1, 0, 1],
  ArrowUp: [0, 0.1, 1],
  ArrowDown: [0, -0.1, 1],
  "+": [0, 0, 0.9],
  "=": [0, 0, 0.9],
  "-": [0, 0, 1 / 0.9],
};

export class HandScene {
  private readonly renderer: THREE.WebGLRenderer;
  private readonly scene = new THREE.Scene();
  private readonly camera = new THREE.PerspectiveCamera(35, 1, 10, 5000);
  private readonly joints: THREE.InstancedMesh;
  private readonly bones: THREE.InstancedMesh;
  private readonly meshes = new THREE.Group();
  private readonly grid = new THREE.GridHelper(GRID_MM, GRID_MM / 20, "#888888", "#888888");
  private readonly pointers = new Map<number, { x: number; y: number }>();
  private view = { ...VIEW };
  private radius = 100; // mm, around all hands; changes in steps, so that a video does not tremble
  private waiting = false;

  /** Throws where the browser has no WebGL. */
  constructor(private readonly canvas: HTMLCanvasElement, private readonly settings: Settings) {
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true });
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    this.joints = instances(new THREE.SphereGeometry(JOINT_MM, 20, 14), 21 * MOST_HANDS);
    this.bones = instances(new THREE.CylinderGeometry(BONE_MM, BONE_MM, 1, 14), 20 * MOST_HANDS);
    const light = new THREE.DirectionalLight("#fff", 2);
    light.position.set(-120, 260, 300);
    this.scene.add(new THREE.HemisphereLight("#fff", "#667", 2), light, this.joints, this.bones, this.meshes, this.grid);
    this.listen();
    new ResizeObserver(() => this.redraw()).observe(canvas);
  }

  /** Show the hands of a picture, around their middle; mirrored as the picture is. */
  show(hands: Hand[], mirrored: boolean): void {
    const shown = hands.slice(0, MOST_HANDS);
    const flip = mirrored ? -1 : 1;
    const points = shown.map((hand) => hand.joints3d.map(([x, y, z]) => new THREE.Vector3(flip * x, -y, -z)));
    const middle = points.flat().reduce((sum, point) => sum.add(point), new THREE.Vector3());
    middle.divideScalar(Math.max(points.flat().length, 1));
    points.flat().forEach((point) => point.sub(middle));
    const radius = Math.max(60, ...points.flat().map((point) => point.length()));
    if (radius > this.radius || radius < 0.6 * this.radius) this.radius = 1.1 * radius;
    this.grid.position.y = Math.min(0, ...points.flat().map((point) => point.y)) - 2 * JOINT_MM;
    let [joint, bone] = [0, 0];
    const place = new THREE.Object3D();
    const color = new THREE.Color();
    for (const hand of points) {
      hand.forEach((point, i) => {
        color.set(colorOf(i, this.settings));
        place.position.copy(point);
        place.scale.set(1, 1, 1);
        place.updateMatrix();
        this.joints.setMatrixAt(joint, place.matrix);
        this.joints.setColorAt(joint++, color);
        const parent = this.settings.parents[i];
        if (parent < 0) return;
        const along = point.clone().sub(hand[parent]);
        place.position.copy(hand[parent]).addScaledVector(along, 0.5);
        place.scale.set(1, along.length(), 1);
        place.quaternion.setFromUnitVectors(new THREE.Vector3(0, 1, 0), along.normalize());
        place.updateMatrix();
        this.bones.setMatrixAt(bone, place.matrix);
        this.bones.setColorAt(bone++, color);
      });
    }
    for (const [mesh, count] of [[this.joints, joint], [this.bones, bone]] as const) {
      mesh.count = count;
      mesh.instanceMatrix.needsUpdate = true;
      if (mesh.instanceColor) mesh.instanceColor.needsUpdate = true;
    }
    this.showMeshes(shown, flip, middle);
    this.redraw();
  }

  private showMeshes(hands: Hand[], flip: number, middle: THREE.Vector3): void {
    for (const child of this.meshes.children) (child as THREE.Mesh).geometry.dispose();
    this.meshes.clear();
    for (const { vertices } of hands) {
      if (!vertices || !this.settings.faces) continue;
      const positions = vertices.flatMap(([x, y, z]) => [flip * x - middle.x, -y - middle.y, -z - middle.z]);
      const geometry = new THREE.BufferGeometry();
      geometry.setAttribute("position", new THREE.Float32BufferAttribute(positions, 3));
      geometry.setIndex(this.settings.faces);
      geometry.computeVertexNormals();
      const skin = { color: "#acc4e8", side: THREE.DoubleSide, transparent: true, opacity: 0.75, depthWrite: true };
      this.meshes.add(new THREE.Mesh(geometry, new THREE.MeshStandardMaterial(skin)));
    }
  }

  private turn(azimuth: number, elevation: number, zoom: number): void {
    this.view.azimuth += azimuth;
    this.view.elevation = Math.min(Math.max(this.view.elevation + elevation, -1.5), 1.5);
    this.view.zoom = Math.min(Math.max(this.view.zoom * zoom, 0.2), 6);
    this.redraw();
  }

  private listen(): void {
    const { canvas, pointers } = this;
    canvas.addEventListener("keydown", (event) => {
      if (event.key === "Home" || event.key === "0") {
        this.view = { ...VIEW };
        this.redraw();
      } else if (event.key in KEYS) this.turn(...KEYS[event.key]);
      else return;
      event.preventDefault();
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.turn(0, 0, Math.exp(event.deltaY * 0.001));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const now = { x: event.clientX, y: event.clientY };
      const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
      pointers.set(event.pointerId, now);
      if (other) this.turn(0, 0, apart(before, other) / Math.max(apart(now, other), 1));
      else this.turn((before.x - now.x) * 0.01, (now.y - before.y) * 0.01, 1);
    });
    for (const end of ["pointerup", "pointercancel"] as const) {
      canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
    }
  }

  /** Draw once before the next frame of the screen. */
  private redraw(): void {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      const { clientWidth: width, clientHeight: height } = this.canvas;
      this.renderer.setSize(width, height, false);
      this.camera.aspect = width / Math.max(height, 1);
      this.camera.updateProjectionMatrix();
      const { azimuth, elevation, zoom } = this.view;
      const distance = AWAY * zoom * this.radius;
      const [out, up] = [Math.cos(elevation) * distance, Math.sin(elevation) * distance];
      this.camera.position.set(Math.sin(azimuth) * out, up, Math.cos(azimuth) * out);
      this.camera.lookAt(0, 0, 0);
      this.renderer.render(this.scene, this.camera);
    });
  }
}

function instances(geometry: THREE.BufferGeometry, most: number): THREE.InstancedMesh {
  const mesh = new THREE.InstancedMesh(geometry, new THREE.MeshStandardMaterial({ roughness: 0.6 }), most);
  mesh.count = 0;
  mesh.frustumCulled = false;
  return mesh;
}

function apart(a: { x: number; y: number }, b: { x: number; y: number }): number {
  return Math.hypot(a.x - b.x, a.y - b.y);
}
