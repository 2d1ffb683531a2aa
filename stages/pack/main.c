#include "pack/pack.h"

int main(int argc, char **argv)
{
    return rh_stage_main(&rh_pack_stage, argc, argv);
}
