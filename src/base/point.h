/* SPDX-License-Identifier: MIT */
/*
 * Points: the places between which the simulator may switch to another fiber.
 *
 * Every page-word and extent-word transition passes one. In the library a point is nothing at all; the same
 * sources, compiled for the simulator with MNW_SIMULATED, call its scheduler there.
 */
#ifndef MNW_BASE_POINT_H
#define MNW_BASE_POINT_H

#ifdef MNW_SIMULATED
void mnw__point(const char *name);
#else
#define mnw__point(name) ((void)0)
#endif

#endif
